//! What is under `docs/deploy/` fits the program: names of settings, files, health checks, and how the mount of a
//! sidecar reaches its neighbour.

use crate::support::{Place, WSD, eventually, has, has_fuse, is_root, skip, text};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join("docs/deploy").join(name)).unwrap()
}

/// The variables that docs/operations.md explains.
fn settings() -> BTreeSet<String> {
    let operations = fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let rows = operations.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| row.split('`').next()).map(str::to_owned).collect()
}

fn assert_is_setting(name: &str, file: &str) {
    let sync = ["UPSTREAM_URL", "UPSTREAM_TOKEN", "SYNC_IGNORE"];
    assert!(settings().contains(name) || sync.contains(&name), "{file} sets {name}: no such setting");
}

#[test]
fn the_image_is_built_from_what_is_there() {
    let dockerfile = read("Dockerfile").replace("\\\n", " ");
    let mut stages = Vec::new();
    for line in dockerfile.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["FROM", _, "AS", stage] => stages.push(stage.to_owned()),
            ["COPY", from, ..] if from.starts_with("--from=") => {
                assert!(stages.iter().any(|stage| from == format!("--from={stage}")), "{line}");
            }
            ["COPY", ref sources @ .., _] => {
                sources.iter().for_each(|source| assert!(root().join(source).exists(), "{line}"));
            }
            ["ENV", ref pairs @ ..] => {
                pairs
                    .iter()
                    .for_each(|pair| assert_is_setting(pair.split('=').next().unwrap(), "Dockerfile"));
            }
            _ => {}
        }
    }
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let (_, version) = manifest.split_once("rust-version = \"").unwrap();
    let version = version.split('"').next().unwrap();
    assert!(dockerfile.contains(&format!("FROM rust:{version}-")), "the compiler is that of Cargo.toml");
    // What the build needs is not left out of the context.
    let left_out = read("Dockerfile.dockerignore");
    for line in left_out.lines() {
        let tracked =
            Command::new("git").args(["-C", root().to_str().unwrap(), "ls-files", "--", line]).output();
        assert_eq!(text(&tracked.unwrap().stdout), "", "{line} is part of the sources");
    }
}

#[test]
fn the_health_check_of_the_image_tells_health() {
    let dockerfile = read("Dockerfile").replace("\\\n", " ");
    let (_, check) = dockerfile.split_once("HEALTHCHECK ").unwrap();
    let (_, check) = check.lines().next().unwrap().split_once(" CMD ").unwrap();
    let place = Place::new();
    let daemon = place.serve_with(&[("FUSE_MOUNT", "none"), ("WSD_TOKEN", "s3cret")]);
    let is_healthy = |token: &str| {
        let path =
            format!("{}:{}", Path::new(WSD).parent().unwrap().display(), std::env::var("PATH").unwrap());
        let mut shell = Command::new("sh");
        shell.args(["-c", check]).env_clear().env("PATH", path).env("PORT", daemon.port.to_string());
        shell.env("WSD_TOKEN", token).stderr(Stdio::null()).status().unwrap().success()
    };
    assert!(is_healthy("s3cret"));
    assert!(!is_healthy("another"), "who cannot ask does not know");
    daemon.stop();
    let down =
        Command::new("sh").args(["-c", check]).env("PORT", "1").stderr(Stdio::null()).status().unwrap();
    assert!(!down.success());
}

#[test]
fn the_manifests_set_what_there_is_to_set() {
    let Some(python) = crate::interop::python() else { return };
    let program = r#"
import sys, yaml
for document in sys.argv[1:]:
    with open(document) as file:
        tree = yaml.safe_load(file)
    services = tree.get("services", {}).values()
    containers = tree["spec"]["initContainers"] + tree["spec"]["containers"] if "spec" in tree else []
    for service in services:
        print(*service.get("environment", {}), sep="\n")
        named = [volume.split(":")[0] for volume in service.get("volumes", []) if isinstance(volume, str)]
        assert all(name in tree["volumes"] for name in named), named
        assert all(name in tree["services"] for name in service.get("depends_on", {}))
    for container in containers:
        print(*[variable["name"] for variable in container.get("env", [])], sep="\n")
        volumes = [volume["name"] for volume in tree["spec"]["volumes"]]
        assert all(mount["name"] in volumes for mount in container["volumeMounts"])
"#;
    if !Command::new(&python).args(["-c", "import yaml"]).status().unwrap().success() {
        skip("PyYAML is not installed for python3");
        return;
    }
    let files = ["compose.yaml", "sidecar.yaml"].map(|name| root().join("docs/deploy").join(name));
    let output = Command::new(python).args(["-c", program]).args(&files).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    assert!(said.lines().count() > 5, "{said}");
    said.lines().filter(|name| !name.is_empty()).for_each(|name| assert_is_setting(name, "a manifest"));
}

#[test]
fn the_unit_is_one_that_systemd_takes() {
    if !has("systemd-analyze") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let unit = directory.path().join("wsd.service");
    let installed = read("wsd.service");
    assert!(installed.contains("ExecStart=/usr/local/bin/wsd serve"));
    fs::write(&unit, installed.replace("/usr/local/bin/wsd", WSD)).unwrap();
    for line in installed.lines().filter_map(|line| line.strip_prefix("Environment=")) {
        assert_is_setting(line.split('=').next().unwrap(), "wsd.service");
    }
    let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&unit).output().unwrap();
    let complaints = text(&output.stderr);
    let ours: Vec<&str> = complaints.lines().filter(|line| line.contains("wsd.service")).collect();
    assert!(output.status.success() && ours.is_empty(), "{complaints}");
}

/// What a container runtime does for `propagation: rshared` and `rslave`: two mount namespaces that share a directory.
#[test]
fn the_mount_of_a_sidecar_reaches_its_neighbour() {
    if !(is_root() && has_fuse() && has("unshare") && has("nsenter")) {
        return;
    }
    let place = Place::new();
    let shared = place.dir.path().canonicalize().unwrap().join("shared");
    let (ready, gone) = (place.dir.path().join("ready"), place.dir.path().join("gone"));
    fs::create_dir(&shared).unwrap();
    // The host's side, in a namespace of its own, so that nothing is left behind; in it the two containers.
    let script = "set -e; mount --bind $shared $shared; mount --make-rshared $shared; \
        unshare -m --propagation unchanged sh -c 'exec $WSD serve' & daemon=$!; \
        unshare -m --propagation slave sh -c '\
            until grep -q \" $shared fuse\" /proc/self/mounts; do sleep 0.05; done; \
            echo hello > $shared/from-beside; cat $shared/from-beside; touch $ready; \
            while grep -q \" $shared fuse\" /proc/self/mounts; do sleep 0.05; done; touch $gone' & agent=$!; \
        until [ -e $ready ]; do sleep 0.05; done; kill $daemon; wait $daemon; wait $agent; umount $shared";
    let mut command = place.command();
    let program = command.get_program().to_owned();
    command = Command::new("unshare");
    command.args(["-m", "--propagation", "private", "bash", "-c", script]).env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap()).env("PORT", "0").env("WSD", program);
    command.env("shared", &shared).env("ready", &ready).env("gone", &gone);
    command.env("WSD_DB", &place.store).env("MOUNT_POINT", &shared);
    let log = |name: &str| -> PathBuf { place.dir.path().join(name) };
    command.stdout(fs::File::create(log("out")).unwrap()).stderr(fs::File::create(log("log")).unwrap());
    let mut host = command.spawn().unwrap();
    eventually("the end of the containers", || host.try_wait().unwrap().is_some());
    assert!(host.wait().unwrap().success() && gone.exists(), "{}", place.log());
    assert!(fs::read_to_string(log("out")).unwrap().contains("hello"));
    place.check();
    let daemon = place.serve();
    assert_eq!(fs::read_to_string(daemon.path("from-beside")).unwrap(), "hello\n", "it is in the store");
    daemon.stop();
}
