//! `/openapi.json` describes what there is, all of it and nothing else.

use std::collections::BTreeSet;

use super::*;
use crate::http::{OPENAPI, ROUTES};

fn document() -> Value {
    serde_json::from_str(OPENAPI).expect("the API description is JSON")
}

/// What the runtime serves on every plane.
const WELL_KNOWN: [&str; 8] =
    ["/", "/livez", "/readyz", "/metrics", "/version", "/openapi.json", "/problems/", "/problems/{code}"];

#[test]
fn the_description_lists_exactly_the_routes() {
    let document = document();
    assert_eq!(document["openapi"].as_str().map(|version| &version[..4]), Some("3.1."));
    let mut expected: BTreeSet<(String, String)> = WELL_KNOWN.iter().map(|p| ((*p).to_owned(), "get".into())).collect();
    for route in ROUTES {
        expected.extend(route.verbs.iter().map(|v| (route.template.to_owned(), v.name().to_lowercase())));
    }
    let mut listed = BTreeSet::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for method in item.as_object().expect("a path item").keys().filter(|key| *key != "parameters") {
            listed.insert((path.clone(), method.clone()));
        }
    }
    assert_eq!(listed, expected);
}

#[test]
fn every_reference_leads_somewhere_and_every_operation_has_a_name_of_its_own() {
    let document = document();
    let mut open = vec![&document];
    let mut names = BTreeSet::new();
    while let Some(value) = open.pop() {
        match value {
            Value::Object(members) => {
                if let Some(reference) = members.get("$ref").and_then(Value::as_str) {
                    let pointer = reference.strip_prefix('#').expect("a local reference");
                    assert!(document.pointer(pointer).is_some(), "{reference}");
                }
                if let Some(name) = members.get("operationId").and_then(Value::as_str) {
                    assert!(names.insert(name.to_owned()), "{name} twice");
                    assert!(members.contains_key("responses"), "{name} answers nothing");
                }
                open.extend(members.values());
            }
            Value::Array(items) => open.extend(items),
            _ => {}
        }
    }
    assert!(names.len() > 20);
}
