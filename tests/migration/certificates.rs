//! Certificates and those who sign them, made as they are needed.

use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use serde_json::json;

use crate::side::Side;

pub type Issuer = CertifiedIssuer<'static, KeyPair>;

pub fn authority(name: &str) -> Issuer {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA")
}

/// A directory of credentials: `end` is `server` or `client`.
pub fn credentials(
    dir: &Path,
    end: &str,
    host: &str,
    last_year: i32,
    by: &Issuer,
    trusted: &Issuer,
) {
    std::fs::create_dir_all(dir).expect("a directory");
    let mut params = CertificateParams::new(vec![host.to_owned()]).expect("parameters");
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, end);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(last_year, 2, 3);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![match end {
        "server" => ExtendedKeyUsagePurpose::ServerAuth,
        _ => ExtendedKeyUsagePurpose::ClientAuth,
    }];
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, by).expect("a certificate");
    let write = |name: &str, pem: String| std::fs::write(dir.join(name), pem).expect("a file");
    write("ca-cert.pem", trusted.pem());
    write(&format!("{end}-cert.pem"), certificate.pem());
    write(&format!("{end}-key.pem"), key.serialize_pem());
}

/// Give a side its credentials. Those that are no good themselves are for the peer to find out.
pub fn secure(side: &mut Side, dir: &Path, end: &str) {
    let object = json!({"qom-type": "tls-creds-x509", "id": "tls0", "dir": dir, "endpoint": end,
                        "verify-peer": true, "sanity-check": false});
    side.qmp.execute_with("object-add", object);
    side.set(json!({"tls-creds": "tls0"}));
}

/// Take them away.
pub fn expose(side: &mut Side) {
    side.set(json!({"tls-creds": ""}));
    side.qmp.execute_with("object-del", json!({"id": "tls0"}));
}
