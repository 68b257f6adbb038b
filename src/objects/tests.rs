//! Objects made, found and removed.

use super::options::ObjectOptions;
use super::*;

async fn add(objects: &Objects, text: &str) -> String {
    let spec = match ObjectOptions::parse(text).and_then(ObjectOptions::into_spec) {
        Ok(spec) => spec,
        Err(error) => return error.to_string(),
    };
    objects.add(spec).await.map_or_else(|error| error.to_string(), |()| "ok".to_owned())
}

#[tokio::test]
async fn objects_are_made_in_words_of_qemu() {
    let objects = Objects::default();
    let rule = r#"{"match":"CN=a","policy":"allow","format":"exact"}"#;
    for (text, expected) in [
        ("secret,id=s,data=hunter2".to_owned(), "ok"),
        (
            "secret,id=s,data=x".into(),
            "attempt to add duplicate property 's' to object (type 'container')",
        ),
        ("secret,id=t,data=x,file=y".into(), "'file' and 'data' are mutually exclusive"),
        (
            "secret,id=t,data=x,format=bogus".into(),
            "Parameter 'format' does not accept value 'bogus'",
        ),
        ("secret,data=x".into(), "Parameter 'id' is missing"),
        ("secret,id=1a,data=x".into(), "Parameter 'id' expects an identifier"),
        ("bogus,id=a".into(), "Parameter 'qom-type' does not accept value 'bogus'"),
        ("id=a".into(), "Parameter 'qom-type' is missing"),
        ("authz-simple,id=z".into(), "Parameter 'identity' is missing"),
        ("authz-simple,id=z,identity=CN=a".into(), "ok"),
        ("authz-list,id=l,rules.0.match=x".into(), "Invalid parameter 'rules.0.match'"),
        (format!(r#"{{"qom-type":"authz-list","id":"l","policy":"deny","rules":[{rule}]}}"#), "ok"),
        (
            r#"{"qom-type":"authz-list","id":"m","rules":[{"match":"x"}]}"#.into(),
            "Parameter 'rules[0].policy' is missing",
        ),
        (
            r#"{"qom-type":"authz-simple","id":"a","identity":5}"#.into(),
            "Invalid parameter type for 'identity', expected: string",
        ),
        (r#"{"qom-type":"secret","#.into(), "JSON parse error, premature EOI"),
        ("tls-creds-x509,id=c,endpoint=client".into(), "Missing 'dir' property value"),
        (
            "tls-creds-x509,id=c,endpoint=bogus,dir=/x".into(),
            "Parameter 'endpoint' does not accept value 'bogus'",
        ),
        (
            "tls-creds-x509,id=c,dir=/x,verify-peer=maybe".into(),
            "Parameter 'verify-peer' expects 'on' or 'off'",
        ),
        (
            r#"{"qom-type":"tls-creds-x509","id":"c","dir":"/x","sanity-check":"x"}"#.into(),
            "Invalid parameter type for 'sanity-check', expected: boolean",
        ),
        ("tls-creds-x509,id=c,dir=/x,passwordid=nosec".into(), "No secret with id 'nosec'"),
        ("tls-creds-x509,id=c,dir=/x,passwordid=z".into(), "Object with id 'z' is not a secret"),
        (
            "tls-creds-x509,id=c,dir=/no/such".into(),
            "Unable to access credentials /no/such/ca-cert.pem: No such file or directory",
        ),
        (
            "tls-creds-x509,id=c,dir=/x,priority=NORMAL".into(),
            "priority 'NORMAL': choosing protocol versions and ciphers is not available; TLS 1.3 \
             and 1.2 are offered",
        ),
        (
            "tls-creds-psk,id=p,dir=/x".into(),
            "tls-creds-psk: TLS with pre-shared keys is not available; use tls-creds-x509",
        ),
        (
            "tls-creds-anon,id=p".into(),
            "tls-creds-anon: TLS without certificates is not available; use tls-creds-x509",
        ),
        (
            "rng-random,id=r,filename=/no/such".into(),
            "Could not open '/no/such': No such file or directory",
        ),
        ("rng-builtin,id=r".into(), "ok"),
        ("memory-backend-ram,id=ram,size=16M".into(), "ok"),
        (
            "memory-backend-ram,id=n,size=0".into(),
            "property 'size' of memory-backend-ram doesn't take value '0'",
        ),
        (
            "memory-backend-memfd,id=n,size=1M,prealloc-threads=0".into(),
            "property 'prealloc-threads' of memory-backend-memfd doesn't take value '0'",
        ),
        (
            "memory-backend-ram,id=n,size=1M,prealloc=on,reserve=off".into(),
            "'prealloc=on' and 'reserve=off' are incompatible",
        ),
        (
            "memory-backend-ram,id=n,size=1M,policy=bind".into(),
            "host-nodes must be set for policy bind",
        ),
        (
            "memory-backend-ram,id=n,size=1M,host-nodes=0".into(),
            "host-nodes must be empty for policy default, or you should explicitly specify a \
             policy other than default",
        ),
        (
            "memory-backend-ram,id=n,size=1M,policy=bind,host-nodes=0-1,host-nodes=128".into(),
            "Invalid host-nodes value: 128",
        ),
        (
            "memory-backend-ram,id=n,size=1M,policy=bind,host-nodes=1-0".into(),
            "Parameter 'host-nodes' expects a uint64 value or range",
        ),
        ("memory-backend-file,id=n,size=1M".into(), "Parameter 'mem-path' is missing"),
        (
            "memory-backend-file,id=n,size=1M,mem-path=/no/such".into(),
            "can't open backing store /no/such for guest RAM: No such file or directory",
        ),
        ("memory-backend-memfd,id=n,size=1M,prealloc=on".into(), "ok"),
        (
            "memory-backend-shm,id=h,size=1M,share=off".into(),
            "can't create shm backend with `share=off`",
        ),
        (
            "memory-backend-file,id=h,size=1M,mem-path=/x,rom=on".into(),
            "property 'rom' = 'on' is not supported with 'readonly' = 'off'",
        ),
        (
            "memory-backend-file,id=h,size=1M,mem-path=/x,readonly=on,share=on,rom=off".into(),
            "property 'rom' = 'off' is incompatible with 'readonly' = 'on' and 'share' = 'on'",
        ),
    ] {
        assert_eq!(add(&objects, &text).await, expected, "{text}");
    }

    // What was made can be found, as what it is.
    assert_eq!(&*objects.secret("s").unwrap(), b"hunter2");
    assert!(objects.authorization("l").unwrap().rules.is_allowed("CN=a"));
    let said = |result: Result<(), ObjectError>| result.unwrap_err().to_string();
    let client = |id| objects.client_tls(id, None).map(drop);
    assert_eq!(said(client("nope")), "No TLS credentials with id 'nope'");
    assert_eq!(said(client("r")), "Object with id 'r' is not TLS credentials");
    let authz = |id| objects.authorization(id).map(drop);
    assert_eq!(said(authz("missing")), "Cannot find QAuthZ object ID missing");
    assert_eq!(said(authz("s")), "Object 's' is not a QAuthZ subclass");

    assert_eq!(said(objects.iothread("ram").map(drop)), ObjectError::NotAnIoThread.to_string());
    assert_eq!(said(objects.iothread("none").map(drop)), "Device 'none' not found");
    assert_eq!(said(objects.memory("s").map(drop)), "Memory backend 's' not found");
    let memory: Vec<_> = objects.memdevs().iter().map(|m| (m.size, m.share, m.prealloc)).collect();
    assert_eq!(memory, [(1 << 20, true, true), (16 << 20, false, false)]);
    objects.keep("ram");
    assert_eq!(said(objects.del("ram")), "object 'ram' is in use, can not be deleted");
    assert_eq!(objects.del("s"), Ok(()));
    assert_eq!(said(objects.del("s")), "object 's' not found");
}
