//! Runs the official OCI conformance suites against a follower and through the round-robin proxy, and
//! judges them by what they wrote down: a suite's exit code hides skips and set-up errors.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::cluster::Cluster;
use crate::process;
use crate::proxy::Proxy;

/// How long one run of a suite may take.
const LIMIT: Duration = Duration::from_secs(300);

/// How many specs of the 1.1 suite run on a registry that has everything.
const PASSED: usize = 74;

/// What the 1.1 suite skips on any registry that has everything: the other branch of a choice.
const ALTERNATIVES: [&str; 5] = [
    "Pull Setup Get tag name from environment",
    "Push Cross-Repository Blob Mount Cross-mounting of nonexistent blob should yield session id",
    "Push Cross-Repository Blob Mount Cross-mounting without from, and automatic content discovery",
    "Push Cross-Repository Blob Mount Cross-mounting without from, and automatic content discovery",
    "Content Discovery Setup Populate registry with test tags (no push)",
];

/// Where a suite sends its requests.
pub struct Target {
    /// For messages and folder names.
    pub name: &'static str,
    /// `host:port`.
    pub address: String,
    _proxy: Option<Proxy>,
}

/// A follower, and the proxy before all nodes.
///
/// # Errors
/// If there is no leader or no port.
pub async fn targets(cluster: &Cluster) -> Result<Vec<Target>> {
    let follower = cluster.follower().await?.address().to_owned();
    let nodes = cluster.nodes()?.iter().map(|node| node.address().to_owned()).collect();
    let proxy = Proxy::start(nodes).await?;
    let address = proxy.address();
    Ok(vec![
        Target { name: "follower", address: follower, _proxy: None },
        Target { name: "proxy", address, _proxy: Some(proxy) },
    ])
}

/// What a suite said, test by test.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// How many passed.
    pub passed: usize,
    /// The names of those that failed.
    pub failed: Vec<String>,
    /// The names of those that were skipped.
    pub skipped: Vec<String>,
}

impl Outcome {
    /// One line for people.
    pub fn line(&self) -> String {
        format!("{} passed, {} failed, {} skipped", self.passed, self.failed.len(), self.skipped.len())
    }
}

/// Runs the 1.1 suite (a `go test -c` executable) and returns what it said.
///
/// # Errors
/// If it does not end in time or leaves no report.
pub async fn run_1_1(suite: &Path, target: &Target, results: &Path) -> Result<Outcome> {
    let dir = results.join(format!("1.1-{}", target.name));
    let mut env = vec![
        ("OCI_ROOT_URL", format!("http://{}", target.address)),
        ("OCI_NAMESPACE", format!("conformance/{}", target.name)),
        ("OCI_CROSSMOUNT_NAMESPACE", format!("conformance/{}-mount", target.name)),
        ("OCI_REPORT_DIR", dir.display().to_string()),
    ];
    for flag in [
        "OCI_TEST_PULL",
        "OCI_TEST_PUSH",
        "OCI_TEST_CONTENT_DISCOVERY",
        "OCI_TEST_CONTENT_MANAGEMENT",
        "OCI_DELETE_MANIFEST_BEFORE_BLOBS",
    ] {
        env.push((flag, "1".to_owned()));
    }
    execute(suite, &dir, &env).await?;
    Ok(read_junit(&report(&dir, "junit.xml")?, "[It] OCI Distribution Conformance Tests "))
}

/// Judges a run of the 1.1 suite: 74 passed, the five alternatives skipped, nothing failed.
///
/// # Errors
/// If it is anything else.
pub fn judge_1_1(outcome: &Outcome) -> Result<()> {
    ensure!(outcome.failed.is_empty(), "failed:\n  {}", outcome.failed.join("\n  "));
    ensure!(outcome.passed == PASSED, "{} passed, not {PASSED}", outcome.passed);
    let known = outcome.skipped.len() == ALTERNATIVES.len()
        && outcome.skipped.iter().zip(ALTERNATIVES).all(|(name, known)| name.starts_with(known));
    ensure!(known, "skipped others than the known alternatives:\n  {}", outcome.skipped.join("\n  "));
    Ok(())
}

/// Runs the 2026 suite for one `OCI_VERSION`; returns what it said of each test, and the status of each
/// API and kind of data in its results.yaml.
///
/// # Errors
/// If it does not end in time or leaves no report.
pub async fn run_rewrite(
    suite: &Path,
    version: &str,
    target: &Target,
    results: &Path,
) -> Result<(Outcome, BTreeMap<String, String>)> {
    let dir = results.join(format!("{version}-{}", target.name));
    let env = [
        ("OCI_REGISTRY", target.address.clone()),
        ("OCI_TLS", "disabled".to_owned()),
        ("OCI_VERSION", version.to_owned()),
        ("OCI_REPO1", format!("conformance/{}-{version}", target.name)),
        ("OCI_REPO2", format!("conformance/{}-{version}-mount", target.name)),
        ("OCI_RESULTS_DIR", dir.display().to_string()),
    ];
    execute(suite, &dir, &env).await?;
    let statuses = read_results(&report(&dir, "results.yaml")?);
    ensure!(!statuses.is_empty(), "results.yaml lists no APIs");
    Ok((read_junit(&report(&dir, "junit.xml")?, ""), statuses))
}

/// What a suite wrote down; a suite that found a mistake in its settings ends with 0 and writes nothing.
fn report(dir: &Path, name: &str) -> Result<String> {
    fs::read_to_string(dir.join(name))
        .with_context(|| format!("the suite left no {name}:\n{}", process::tail(&dir.join(OUTPUT), 20)))
}

/// Where a suite's output goes.
const OUTPUT: &str = "output.txt";

/// Judges a run of the 2026 suite: nothing failed, nothing skipped but `allowed` names.
///
/// # Errors
/// If it is anything else.
pub fn judge_rewrite(
    outcome: &Outcome,
    statuses: &BTreeMap<String, String>,
    allowed: &[String],
) -> Result<()> {
    let is_allowed = |name: &str| allowed.iter().any(|a| a == name);
    let mut wrong: Vec<String> = outcome.failed.iter().map(|name| format!("FAIL {name}")).collect();
    wrong.extend(outcome.skipped.iter().filter(|name| !is_allowed(name)).map(|name| format!("Skip {name}")));
    for (name, status) in statuses {
        if status != "Pass" && !is_allowed(name) {
            wrong.push(format!("{status} {name} (results.yaml)"));
        }
    }
    ensure!(wrong.is_empty(), "{} lines:\n  {}", wrong.len(), wrong.join("\n  "));
    ensure!(outcome.passed > 0, "nothing was tested");
    Ok(())
}

/// The names that may be skipped: list items that begin with a name in back quotes, between the two
/// comments `skips:begin` and `skips:end` of the document.
pub fn allowed_skips(document: &str) -> Vec<String> {
    let (_, rest) = document.split_once("<!-- skips:begin -->").unwrap_or_default();
    let (list, _) = rest.split_once("<!-- skips:end -->").unwrap_or_default();
    let name = |line: &str| Some(line.strip_prefix("- `")?.split_once('`')?.0.to_owned());
    list.lines().filter_map(name).collect()
}

/// Reads the status of every API and kind of data: the `name: status` lines of the two top-level maps
/// after the configuration. A full YAML reader would find nothing more.
fn read_results(yaml: &str) -> BTreeMap<String, String> {
    let mut section = "";
    let mut statuses = BTreeMap::new();
    for line in yaml.lines() {
        if !line.starts_with(' ') {
            section = line.trim_end_matches(':');
        } else if matches!(section, "apis" | "data")
            && let Some((name, status)) = line.trim().rsplit_once(": ")
        {
            statuses.insert(name.to_owned(), status.trim_matches('"').to_owned());
        }
    }
    statuses
}

/// Reads a JUnit report: test cases whose name begins with `prefix`, which is cut off.
fn read_junit(xml: &str, prefix: &str) -> Outcome {
    let mut outcome = Outcome::default();
    for case in xml.split("<testcase ").skip(1) {
        let tag = case.split('>').next().unwrap_or_default();
        let name = unescape(attribute(tag, "name").unwrap_or_default());
        let Some(name) = name.strip_prefix(prefix) else { continue };
        match attribute(tag, "status") {
            Some("passed") => outcome.passed += 1,
            Some("skipped" | "pending") => outcome.skipped.push(name.to_owned()),
            _ => outcome.failed.push(name.to_owned()),
        }
    }
    outcome
}

fn attribute<'a>(tag: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = tag.split_once(&format!("{name}=\""))?;
    rest.split('"').next()
}

fn unescape(text: &str) -> String {
    text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&#34;", "\"")
        .replace("&quot;", "\"")
        .replace("&amp;", "&")
}

/// Runs a suite in `dir`, its output in a file there. Its exit code says nothing.
async fn execute(suite: &Path, dir: &Path, env: &[(&str, String)]) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => fs::create_dir_all(dir)?,
    }
    let suite = fs::canonicalize(suite).with_context(|| format!("no suite at {}", suite.display()))?;
    let out = fs::File::create(dir.join(OUTPUT))?;
    let mut command = tokio::process::Command::new(&suite);
    command.current_dir(dir).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).kill_on_drop(true);
    // Settings of the caller's own must not change what is tested.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("OCI_")) {
        command.env_remove(name);
    }
    let mut child = command.envs(env.iter().map(|(name, value)| (name, value))).spawn()?;
    match tokio::time::timeout(LIMIT, child.wait()).await {
        Ok(status) => status.map(drop).map_err(Into::into),
        Err(_) => bail!("the suite did not end:\n{}", process::tail(&dir.join(OUTPUT), 20)),
    }
}

/// Where results go if nobody says: below the build folder.
pub fn default_results() -> PathBuf {
    std::env::current_exe()
        .ok()
        .and_then(|exe| exe.ancestors().nth(2).map(|target| target.join("conformance")))
        .unwrap_or_else(|| PathBuf::from("target/conformance"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_the_maps_after_the_configuration() {
        let yaml = "config:\n  apis:\n    pull: true\n  version: dev\napis:\n  Blob get: Pass\n  \
                    Ping: FAIL\ndata:\n  Sparse Manifests: Disabled\n";
        let read = read_results(yaml);
        let expected = [("Blob get", "Pass"), ("Ping", "FAIL"), ("Sparse Manifests", "Disabled")];
        assert_eq!(read, expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
    }

    #[test]
    fn junit_is_read_by_status() {
        let xml = r#"<testcase name="[It] S a &lt;b&gt;" classname="" status="passed" time="1"></testcase>
            <testcase name="[It] S c" status="skipped"/><testcase name="[It] S d" status="failed">
            <testcase name="[ReportAfterSuite] x" status="passed">"#;
        let expected = Outcome { passed: 1, failed: vec!["d".into()], skipped: vec!["c".into()] };
        assert_eq!(read_junit(xml, "[It] S "), expected);
    }

    #[test]
    fn only_listed_skips_are_allowed() {
        let document =
            "- `not this`\n<!-- skips:begin -->\n- `a/b`: reason\ntext\n<!-- skips:end -->\n- `c`\n";
        let allowed = allowed_skips(document);
        assert_eq!(allowed, ["a/b"]);
        let outcome = Outcome { passed: 1, failed: vec![], skipped: vec!["a/b".into()] };
        let statuses = [("Ping".to_owned(), "Pass".to_owned())].into();
        assert!(judge_rewrite(&outcome, &statuses, &allowed).is_ok());
        assert!(judge_rewrite(&outcome, &statuses, &[]).is_err());
        let statuses = [("Ping".to_owned(), "Skip".to_owned())].into();
        assert!(judge_rewrite(&outcome, &statuses, &allowed).is_err());
    }
}
