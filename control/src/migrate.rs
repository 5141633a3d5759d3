//! Makes the tables, and the rights that the serving role needs and nobody else has.

use sqlx::migrate::Migrator;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection, Row};

static MIGRATIONS: Migrator = sqlx::migrate!();

/// Why the database could not be migrated.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// One of the two URLs is malformed.
    #[error("{0} is not a URL of a Postgres database")]
    Url(&'static str, #[source] sqlx::Error),
    /// Postgres is away or refuses us.
    #[error("can't connect to Postgres")]
    Connect(#[source] sqlx::Error),
    /// A migration failed, or another version of this program made the tables.
    #[error("a migration failed; where a right is missing, NEXUS_MIGRATE_URL names a role that has it")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// The rights could not be given.
    #[error("the rights could not be given: migrate as a superuser, or as the owner of the database")]
    Rights(#[source] sqlx::Error),
}

/// Brings the database at `migrate_url` up to date; again: nothing. The role of `serving_url` gets what
/// serving needs: the tables, and `pg_logical_emit_message`, which is taken from everybody else,
/// because whoever may call it can forge events.
///
/// # Errors
/// [`MigrateError`].
pub async fn migrate_tables(migrate_url: &str, serving_url: &str) -> Result<(), MigrateError> {
    let options = |name, url: &str| url.parse::<PgConnectOptions>().map_err(|error| MigrateError::Url(name, error));
    let serving = options("NEXUS_DATABASE_URL", serving_url)?;
    let migrating = options("NEXUS_MIGRATE_URL", migrate_url)?.application_name("nexus-control migrate");
    let mut connection = migrating.disable_statement_logging().connect().await.map_err(MigrateError::Connect)?;
    MIGRATIONS.run(&mut connection).await?;
    give_rights(&mut connection, serving.get_username()).await.map_err(MigrateError::Rights)?;
    // The work is done; how the goodbye goes does not matter.
    let _ = connection.close().await;
    Ok(())
}

async fn give_rights(connection: &mut PgConnection, role: &str) -> Result<(), sqlx::Error> {
    let role = sqlx::query("SELECT quote_ident($1) AS role").bind(role).fetch_one(&mut *connection).await?;
    let role: String = role.try_get("role")?;
    for statement in [
        format!("GRANT USAGE ON SCHEMA nexus TO {role}"),
        format!("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA nexus TO {role}"),
        format!("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA nexus TO {role}"),
    ] {
        connection.execute(AssertSqlSafe(statement)).await?;
    }
    let look = "SELECT array_agg(p.oid::regprocedure::text) AS functions,
                       bool_or(pg_has_role(p.proowner, 'USAGE')) AS ours,
                       bool_and(has_function_privilege($1::name, p.oid, 'EXECUTE')) AS given
                FROM pg_proc p WHERE p.proname = 'pg_logical_emit_message'";
    let found = sqlx::query(look).bind(role.trim_matches('"')).fetch_one(&mut *connection).await?;
    let functions: Vec<String> = found.try_get("functions")?;
    if !found.try_get::<bool, _>("ours")? {
        // A managed Postgres, say. Serving works if the role may emit; that others may too is for its owner to mend.
        tracing::warn!(
            "only a superuser can take pg_logical_emit_message from PUBLIC: any role of this server can forge events"
        );
        return Ok(());
    }
    for function in functions {
        connection.execute(AssertSqlSafe(format!("REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC"))).await?;
        connection.execute(AssertSqlSafe(format!("GRANT EXECUTE ON FUNCTION {function} TO {role}"))).await?;
    }
    Ok(())
}
