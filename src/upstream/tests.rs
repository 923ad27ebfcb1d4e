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

#[test]
fn failures_say_whether_to_try_again() {
    let told = |code: &str| {
        judge(ClientError::Refused {
            code: code.to_owned(),
            message: "m".to_owned(),
            path: Vec::new(),
            applied: Applied::No,
        })
    };
    assert_eq!(told("EREFUSED"), LinkError::Refused("m".to_owned()));
    assert_eq!(told("EAGAIN"), LinkError::Failed("m".to_owned()));
    assert_eq!(told("ENOSPC"), LinkError::Failed("m".to_owned()));
    assert_eq!(told("ESHUTDOWN"), LinkError::Lost("m".to_owned()));
    let url = || "ws://h/ws".to_owned();
    let secret = judge(ClientError::Secret { url: url() });
    assert!(matches!(&secret, LinkError::Refused(text) if text.contains("UPSTREAM_TOKEN")), "{secret}");
    let connect = |is_temporary| {
        judge(ClientError::Connect { url: url(), reason: String::new(), advice: "", is_temporary })
    };
    assert!(matches!(connect(true), LinkError::Lost(_)) && matches!(connect(false), LinkError::Refused(_)));
}
