//! Follows.

use anyhow::Result;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_forms() -> Result<()> {
    let _alone = crate::alone().await;
    let home = tempfile::tempdir()?;
    let specs = (0..3).map(clawhub_testkit::fleet::Spec::zone).collect();
    let members = clawhub_testkit::fleet::form(home.path(), specs).await?;
    crate::seen("0", &format!("{} nodes", members.len()));
    Ok(())
}
