//! Identities and keys: rules that look at several rows, and the records that the data plane authorises by.

use std::time::Instant;

use contract::command::{CreateIdentity, CreateKey, PatchIdentity, Precondition};
use contract::event::Change;
use contract::identity::{KeyRecord, Kind, Role, secret_key_id};
use contract::partition::Topic;
use contract::token::Token;
use control::create_admin::{CreateAdminError, create_admin};
use control::request::{Answer, Work};
use control::store::Lookup;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::support::{Place, id_of, json, request, store};

pub fn create(name: &str, role: Role) -> Work {
    let (name, kind) = (name.to_owned(), Kind::Human);
    Work::CreateIdentity(CreateIdentity { name, display_name: None, email: None, kind, role, active: true })
}

pub async fn identity(place: &Place, name: &str) -> Uuid {
    id_of(&place.run(create(name, Role::Operator)).await)
}

fn code(answer: &Answer) -> (u16, String) {
    (answer.status, json(answer)["code"].as_str().unwrap_or_default().to_owned())
}

fn patch(id: Uuid, patch: PatchIdentity) -> Work {
    Work::UpdateIdentity(id, patch, Precondition::None)
}

async fn key(place: &Place, identity: Uuid) -> Answer {
    place.run(Work::CreateKey(identity, CreateKey { name: "laptop".into(), expires_at: None })).await
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_unique() {
    let place = Place::new("names").await;
    let first = place.run(create("ann", Role::Reader)).await;
    let id = id_of(&first);
    assert_eq!((first.status, first.etag, first.location), (201, Some(1), Some(format!("/v1/identities/{id}"))));
    assert_eq!(code(&place.run(create("ann", Role::Admin)).await), (409, "name-taken".into()));
    let other = identity(&place, "bob").await;
    let rename = |id, name: &str| patch(id, PatchIdentity { name: Some(name.into()), ..PatchIdentity::default() });
    assert_eq!(code(&place.run(rename(other, "ann")).await), (409, "name-taken".into()));
    let unchanged = place.run(rename(id, "ann")).await;
    assert_eq!((unchanged.status, unchanged.etag, unchanged.token.is_some()), (200, Some(1), true));
    assert_eq!(place.run(rename(id, "ann2")).await.etag, Some(2));
    assert_eq!(place.run(rename(other, "ann")).await.status, 200);
    let versions: Vec<_> = place.events().await.into_iter().map(|event| (event.id, event.version)).collect();
    assert_eq!(versions, [(id, 1), (other, 1), (id, 2), (other, 2)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_active_admin_stays() {
    let place = Place::new("last_admin").await;
    let one = id_of(&place.run(create("one", Role::Admin)).await);
    let demote = |id| patch(id, PatchIdentity { role: Some(Role::Reader), ..PatchIdentity::default() });
    let deactivate = |id| patch(id, PatchIdentity { active: Some(false), ..PatchIdentity::default() });
    for work in [demote(one), deactivate(one), Work::DeleteIdentity(one, Precondition::None)] {
        assert_eq!(code(&place.run(work).await), (409, "last-admin".into()));
    }
    let two = id_of(&place.run(create("two", Role::Admin)).await);
    // Both processes try to remove the other's admin at the same time: one of the two must stay.
    let other = store(&place.namespace.database_url());
    let (first, second) = ([request(demote(one))], [request(Work::DeleteIdentity(two, Precondition::None))]);
    let (first, second) =
        tokio::join!(place.store.execute(&first, Instant::now()), other.execute(&second, Instant::now()));
    let mut statuses = [first[0].as_ref().unwrap().status, second[0].as_ref().unwrap().status];
    statuses.sort_unstable();
    assert!(statuses == [200, 409] || statuses == [204, 409], "{statuses:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_stored_as_its_hash_and_shown_once() {
    let place = Place::new("keys").await;
    let owner = identity(&place, "owner").await;
    let answer = key(&place, owner).await;
    let made = json(&answer);
    let secret = made["secret"].as_str().unwrap().to_owned();
    let id = id_of(&answer);
    assert_eq!((answer.status, secret_key_id(&secret)), (201, Some(id)));
    assert_eq!((made["hint"].as_str(), &made["expires_at"]), (Some(&secret[64..]), &serde_json::Value::Null));
    let names: Vec<_> = made.as_object().unwrap().keys().cloned().collect();
    assert_eq!(names.len(), 6);

    let record = place.store.load_key_for_auth(id).await.unwrap().unwrap();
    let hash: String = Sha256::digest(secret.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!((record.identity, record.role, record.active), (owner, Role::Operator, true));
    assert_eq!((record.sha256.as_str(), record.version), (hash.as_str(), 1));
    let event = place.events().await.pop().unwrap();
    assert_eq!((event.topic, event.id, event.change, event.version), (Topic::Keys, id, Change::Created, 1));
    assert_eq!(serde_json::from_slice::<KeyRecord>(&event.value).unwrap(), record);
    let token = Token::decode(&answer.token.unwrap()).unwrap();
    let named: Vec<_> = token.entries.iter().map(|entry| (entry.partition.topic, entry.id, entry.version)).collect();
    assert_eq!(
        named,
        [(Topic::Keys, id, 1), (Topic::Identities, owner, 1)],
        "a key is of use when its identity is there"
    );

    let listed = place.store.list_keys(owner).await.unwrap().unwrap();
    assert!(!String::from_utf8_lossy(&listed[0]).contains("secret"));
    assert_eq!(place.store.list_keys(Uuid::from_u128(3)).await.unwrap(), None);

    let revoke = || Work::RevokeKey(owner, id);
    assert_eq!(place.run(Work::RevokeKey(Uuid::from_u128(3), id)).await.status, 404);
    let revoked = place.run(revoke()).await;
    assert_eq!((revoked.status, revoked.invalidates.keys), (204, vec![id]));
    let event = place.events().await.pop().unwrap();
    assert_eq!((event.topic, event.change, event.version), (Topic::Keys, Change::Deleted, 2));
    assert_eq!(place.run(revoke()).await.status, 404);
    assert_eq!(place.store.load_key_for_auth(id).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_role_or_activity_re_emits_every_key() {
    let place = Place::new("re_emit").await;
    let owner = identity(&place, "owner").await;
    let keys = [id_of(&key(&place, owner).await), id_of(&key(&place, owner).await)];
    let before = place.events().await.len();
    let email = PatchIdentity { email: Some(Some("a@b".into())), ..PatchIdentity::default() };
    place.run(patch(owner, email)).await;
    assert_eq!(place.events().await.len(), before + 1, "no key changes with an address");
    let demotion = PatchIdentity { role: Some(Role::Reader), active: Some(false), ..PatchIdentity::default() };
    let answer = place.run(patch(owner, demotion)).await;
    assert_eq!((answer.status, answer.invalidates.identities), (200, vec![owner]));
    let events = place.events().await.split_off(before + 1);
    assert_eq!((events[0].topic, events[0].id, events[0].version), (Topic::Identities, owner, 3));
    for (event, key) in events[1..].iter().zip(keys) {
        assert_eq!((event.topic, event.id, event.change, event.version), (Topic::Keys, key, Change::Updated, 2));
        let record: KeyRecord = serde_json::from_slice(&event.value).unwrap();
        assert_eq!((record.role, record.active, record.version), (Role::Reader, false, 2));
        assert_eq!(place.store.load_key_for_auth(key).await.unwrap(), Some(record));
    }
    assert_eq!(events.len(), 3);
    let token = Token::decode(&answer.token.unwrap()).unwrap();
    let named: Vec<_> = token.entries.iter().map(|entry| (entry.id, entry.version)).collect();
    assert_eq!(named, [(owner, 3), (keys[1], 2)], "the last event of each partition");
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_an_identity_revokes_its_keys() {
    let place = Place::new("deletion").await;
    let owner = identity(&place, "owner").await;
    let revoked = id_of(&key(&place, owner).await);
    let stale = place.run(Work::DeleteIdentity(owner, Precondition::AnyOf(vec![2]))).await;
    assert_eq!(code(&stale), (412, "precondition-failed".into()));
    let answer = place.run(Work::DeleteIdentity(owner, Precondition::AnyOf(vec![1]))).await;
    assert_eq!((answer.status, answer.body.len(), answer.invalidates.keys), (204, 0, vec![revoked]));
    let events: Vec<_> = place.events().await.split_off(2).into_iter().map(|e| (e.id, e.change, e.version)).collect();
    assert_eq!(events, [(revoked, Change::Deleted, 2), (owner, Change::Deleted, 2)]);
    assert_eq!(place.store.load_identity(owner).await.unwrap(), Lookup::Missing);
    assert_eq!(place.store.load_key_for_auth(revoked).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_admin_is_made_once() {
    let place = Place::new("first_admin").await;
    let first = create_admin(&place.store, "admin", false).await.unwrap();
    assert!(first.created);
    let record = place.store.load_key_for_auth(secret_key_id(&first.secret.unwrap()).unwrap()).await.unwrap().unwrap();
    assert_eq!((record.identity, record.role), (first.identity, Role::Admin));
    let again = create_admin(&place.store, "admin", false).await.unwrap();
    assert_eq!((again.identity, again.created, again.secret), (first.identity, false, None));
    let with_key = create_admin(&place.store, "admin", true).await.unwrap();
    assert!(with_key.secret.is_some() && !with_key.created);
    identity(&place, "operator").await;
    let refused = create_admin(&place.store, "operator", true).await;
    assert!(matches!(refused, Err(CreateAdminError::NotAdmin(_))));
    assert!(matches!(create_admin(&place.store, "No Name", true).await, Err(CreateAdminError::Name(_))));
}
