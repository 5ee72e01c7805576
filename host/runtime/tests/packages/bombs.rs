//! Components that are much work for whoever takes them, and good for nothing.

use std::path::Path;

/// A component's text, in which `{{N text}}` stands for `text` N times, and `#` in it for the number of each.
pub fn bomb(name: &str) -> Vec<u8> {
    let mut text = std::fs::read_to_string(folder().join(name).with_extension("wat")).unwrap();
    while let Some((before, rest)) = text.split_once("{{") {
        let (repeated, after) = rest.split_once("}}").unwrap();
        let (times, what) = repeated.split_once(' ').unwrap();
        let times: usize = times.parse().unwrap();
        let numbered: Vec<_> = (0..times).map(|number| what.replace('#', &number.to_string())).collect();
        text = format!("{before}{}{after}", numbered.join(" "));
    }
    wat::parse_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// All of them by name, and what no text can say.
#[allow(dead_code, reason = "not every test needs all of them")]
pub fn all() -> Vec<(String, Vec<u8>)> {
    let mut names: Vec<_> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    let mut all: Vec<_> = names
        .into_iter()
        .map(|name| {
            let bytes = bomb(&name);
            (name, bytes)
        })
        .collect();
    let binary = [
        ("nested-instances", nested(5000, [0x42, 1, 1], [0x42, 0])),
        ("nested-instances-less", nested(700, [0x42, 1, 1], [0x42, 0])),
        ("nested-components", nested(5000, [0x41, 1, 1], [0x41, 0])),
        ("long-name", component(&[(10, &[&[1, 0][..], &sized(&vec![b'a'; 1 << 20]), &[1, 0]].concat())])),
        ("long-section", component(&[(0, &[&sized(b"noise")[..], &vec![7; 40 << 20]].concat())])),
        ("many-sections", component(&vec![(0, &sized(b"x")[..]); 1_000_000])),
        ("endless-count", component(&[(7, &[0xff, 0xff, 0xff, 0xff, 0x0f])])),
    ];
    all.extend(binary.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)));
    all
}

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime/tests/guests/hostile/bombs")
}

/// Types in types: what begins one, so often, and the last.
fn nested<const N: usize, const M: usize>(depth: usize, begins: [u8; N], last: [u8; M]) -> Vec<u8> {
    component(&[(7, &[&[1][..], &begins.repeat(depth), &last].concat())])
}

/// A component of sections.
fn component(sections: &[(u8, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0, b'a', b's', b'm', 0x0d, 0, 1, 0];
    for (id, content) in sections {
        bytes.push(*id);
        bytes.extend(sized(content));
    }
    bytes
}

/// With its length before it, as LEB128.
fn sized(content: &[u8]) -> Vec<u8> {
    let (mut bytes, mut left) = (Vec::new(), content.len());
    while left >= 0x80 {
        bytes.push((left & 0x7f) as u8 | 0x80);
        left >>= 7;
    }
    bytes.push(left as u8);
    bytes.extend_from_slice(content);
    bytes
}
