//! What configuration files say, and what is said of their mistakes.

use super::*;

const MINIMAL: &str = "[node]\nname = \"n1\"\nregion = \"r1\"\nzone = \"a\"\ndata = \"d\"\n\
                       [peer]\nlisten = \"127.0.0.1:7000\"\n";

fn lines(text: &str) -> Vec<(usize, String)> {
    Config::parse(text).unwrap_err().into_iter().map(|m| (m.line, m.key)).collect()
}

#[test]
fn a_minimal_file_gets_the_defaults() {
    let config = Config::parse(MINIMAL).unwrap();
    assert_eq!(config.http.listen, "127.0.0.1:5000".parse().unwrap());
    assert_eq!(config.node.roles, Roles { voter: true, storage: true });
    assert_eq!(
        config.storage,
        StorageConfig {
            durability: None,
            min_free: 1 << 30,
            cache: CacheSize::Share(10),
            recheck: MAX_RECHECK
        }
    );
    assert_eq!(config.raft.profile, RaftProfile::Wan);
}

#[test]
fn five_mistakes_are_five_lines() {
    let text = "[node]\n\
                name = \"Node_1\"\n\
                region = \"r1\"\n\
                zone = 7\n\
                data = \"d\"\n\
                [http]\n\
                listen = \"0.0.0.0:5000\"\n\
                insecur = true\n\
                [peer]\n\
                listen = \"127.0.0.1:7000\"\n\
                [storage]\n\
                min_free = \"ten\"\n";
    let expected = [
        (2, "node.name"),
        (4, "node.zone"),
        (7, "http.listen"),
        (8, "http.insecur"),
        (12, "storage.min_free"),
    ];
    assert_eq!(lines(text), expected.map(|(line, key)| (line, key.to_owned())));
    let shown = ConfigError::Mistakes("n1.toml".into(), Config::parse(text).unwrap_err()).to_string();
    assert_eq!(shown.lines().count(), 6, "{shown}");
    assert!(shown.contains("line 8: http.insecur: is unknown"), "{shown}");
}

#[test]
fn a_line_that_is_no_toml_is_one_mistake_beside_the_others() {
    let text = MINIMAL.replace("zone = \"a\"", "zone = ").replace("127.0.0.1:7000", "somewhere");
    assert_eq!(lines(&text), [(4, String::new()), (7, "peer.listen".into())]);
    let text = MINIMAL.replace("zone = \"a\"", "zone = \"a").replace("127.0.0.1:7000", "somewhere");
    assert_eq!(lines(&text), [(4, String::new()), (7, "peer.listen".into())]);
    let text = MINIMAL.replace("zone = \"a\"", "zone = a");
    assert_eq!(lines(&text), [(4, String::new())]);
}

#[test]
fn missing_and_unknown_things_are_named() {
    let keys = ["node.name", "node.region", "node.zone", "node.data", "peer.advertise"];
    assert_eq!(lines(""), keys.map(|key| (1, key.to_owned())));
    assert_eq!(lines(&format!("{MINIMAL}[nodes]\n")), [(8, "nodes".into())]);
    assert_eq!(lines(&format!("raft = 1\n{MINIMAL}")), [(1, "raft".into())]);
    assert_eq!(lines(&format!("{MINIMAL}listen = \"127.0.0.1:7001\"\n")).len(), 1);
}

#[test]
fn a_misspelt_level_does_not_silence_the_node() {
    let with = |level: &str| Config::parse(&format!("{MINIMAL}[log]\nlevel = \"{level}\"\n"));
    for good in ["info", "WARN", "off", "info,clawhub_consensus=debug", "info,clawhub::access=off"] {
        assert!(with(good).is_ok(), "{good}");
    }
    for bad in [
        "",
        " ",
        "inf",
        "chatty",
        "info,clawhub_consensus",
        "info,,",
        "info=chatty",
        "info, clawhub::access=off",
    ] {
        assert!(with(bad).is_err(), "{bad}");
    }
}

#[test]
fn only_loopback_goes_without_authentication() {
    let with = |http: &str| Config::parse(&format!("{MINIMAL}[http]\n{http}\n"));
    assert!(with("listen = \"[::1]:5000\"").is_ok());
    assert!(with("listen = \"10.0.0.1:5000\"").is_err());
    assert!(with("listen = \"10.0.0.1:5000\"\ninsecure = false").is_err());
    assert!(with("listen = \"10.0.0.1:5000\"\ninsecure = true").is_ok());
}

/// The shipped configurations, by folder.
fn shipped() -> Vec<(String, Vec<Config>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../cluster-configs");
    let entries = |folder: &Path| std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let mut layouts: Vec<_> = entries(&root)
        .filter(|path| path.is_dir())
        .map(|folder| {
            let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
            let files = entries(&folder).filter(|path| path.extension().is_some_and(|e| e == "toml"));
            (name, files.map(|path| Config::load(&path).unwrap_or_else(|e| panic!("{e}"))).collect())
        })
        .collect();
    layouts.sort_by(|a: &(String, Vec<Config>), b| a.0.cmp(&b.0));
    layouts
}

#[test]
fn the_shipped_configurations_are_valid_and_do_not_collide() {
    let layouts = shipped();
    let sizes: Vec<_> = layouts.iter().map(|(name, nodes)| (name.as_str(), nodes.len())).collect();
    assert_eq!(sizes, [("three-regions", 3), ("three-zones", 3), ("two-regions-and-witness", 5)]);
    let mut addresses = std::collections::BTreeSet::new();
    for (name, nodes) in &layouts {
        for node in nodes {
            assert!(addresses.insert(node.http.listen) && addresses.insert(node.peer.listen), "{name}");
            assert!(node.node.data.starts_with(Path::new(env!("CARGO_MANIFEST_DIR"))), "{name}");
        }
        let inits = nodes.iter().filter(|node| node.storage.durability.is_some()).count();
        assert_eq!(inits, 1, "{name}: one node is meant for init");
    }
    let witnesses = layouts[2].1.iter().filter(|node| !node.node.roles.storage).count();
    assert_eq!(witnesses, 1);
}

#[test]
fn the_reference_beside_the_configurations_lists_every_key_and_its_default() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../cluster-configs/README.md");
    let text = std::fs::read_to_string(file).unwrap();
    let mut sections = std::collections::BTreeMap::<_, Vec<_>>::new();
    for row in text.lines().filter_map(|line| line.strip_prefix("| `[")) {
        let (section, rest) = row.split_once("] ").unwrap();
        let (keys, rest) = rest.split_once(" | ").unwrap();
        let default = rest.split(" | ").next().unwrap().trim_matches('`');
        for key in keys.split(", ").map(|key| key.trim_matches('`')) {
            let value = match default {
                value if value.starts_with(['"', '[', 't', 'f']) || value.parse::<u64>().is_ok() => value,
                _ => continue,
            };
            sections.entry(section).or_default().push(format!("{key} = {value}"));
        }
    }
    // Every default that is written down, set: the same as saying nothing.
    let defaults = |section: &str| sections[section].join("\n");
    let spelled = format!(
        "[node]\nname = \"n1\"\nregion = \"r1\"\nzone = \"a\"\ndata = \"d\"\n{}\n[http]\n{}\n\
         [peer]\n{}\nadvertise = \"h:1\"\n[raft]\n{}\n[storage]\n{}\n[limits]\n{}\n[log]\n{}\n",
        defaults("node"),
        defaults("http"),
        defaults("peer"),
        defaults("raft"),
        defaults("storage"),
        defaults("limits"),
        defaults("log"),
    );
    let silent = "[node]\nname = \"n1\"\nregion = \"r1\"\nzone = \"a\"\ndata = \"d\"\n\
                  [peer]\nadvertise = \"h:1\"\n";
    assert_eq!(Config::parse(&spelled).unwrap(), Config::parse(silent).unwrap());
    let spelled_keys: usize = sections.values().map(Vec::len).sum();
    assert_eq!(spelled_keys, 18, "{sections:?}");
}
