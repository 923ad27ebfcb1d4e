//! How calls are cut, and what failures mean.

use super::*;
use crate::client::Applied;

#[test]
fn objects_go_in_groups_that_fit() {
    let object = |size: usize| Object { hash: [size as u8; 32], bytes: vec![0; size] };
    let sizes = |objects: Vec<Object>| groups(objects).iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(sizes(Vec::new()), [0; 0]);
    assert_eq!(sizes((0..20).map(|_| object(256 << 10)).collect()), [8, 8, 4]);
    assert_eq!(sizes((0..2000).map(|_| object(10)).collect()), [1024, 976]);
    assert_eq!(sizes(vec![object(OBJECT_BYTES), object(1)]), [1, 1]);
}

fn refusal(code: &str, message: &str) -> ClientError {
    let (code, message) = (code.to_owned(), message.to_owned());
    ClientError::Refused { code, message, path: Vec::new(), applied: Applied::No }
}

#[test]
fn a_hub_that_has_no_code_for_it_says_in_words_that_it_has_no_room() {
    let words = "no space left: 2 bytes more are needed, and the workspace's quota leaves 1";
    assert_eq!(judge(refusal("EAGAIN", words)), LinkError::Full(words.to_owned()));
    assert_eq!(judge(refusal("ENOSPC", "any others")), LinkError::Full("any others".to_owned()));
    // A file may have any name.
    let other = "cannot read \"no space left\"";
    assert_eq!(judge(refusal("EAGAIN", other)), LinkError::Failed(other.to_owned()));
}

#[test]
fn failures_say_whether_to_try_again() {
    let told = |code| judge(refusal(code, "m"));
    assert_eq!(told("EREFUSED"), LinkError::Refused("m".to_owned()));
    assert_eq!(told("EAGAIN"), LinkError::Failed("m".to_owned()));
    assert_eq!(told("EIO"), LinkError::Failed("m".to_owned()));
    assert_eq!(told("ENOSPC"), LinkError::Full("m".to_owned()));
    assert_eq!(told("ESHUTDOWN"), LinkError::Lost("m".to_owned()));
    let url = || "ws://h/ws".to_owned();
    let secret = judge(ClientError::Secret { url: url() });
    assert!(matches!(&secret, LinkError::Refused(text) if text.contains("UPSTREAM_TOKEN")), "{secret}");
    let connect = |is_temporary| {
        judge(ClientError::Connect { url: url(), reason: String::new(), advice: "", is_temporary })
    };
    assert!(matches!(connect(true), LinkError::Lost(_)) && matches!(connect(false), LinkError::Refused(_)));
}
