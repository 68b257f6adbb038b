//! What the user makes by name, as far as `object-add` takes it: a property that it does not take
//! is not there.

use std::collections::{BTreeMap, BTreeSet};

use super::{Access, OBJECT, Property, Type};
use crate::objects::options;
use crate::qmp::schema;

pub(super) fn types() -> Vec<Type> {
    let mut types = vec![
        Type::abstracted("authz", OBJECT),
        Type::concrete("authz-list", "authz").implementing(&["user-creatable"]).class([
            Property::told("policy", "QAuthZListPolicy"),
            Property::told("rules", "QAuthZListRule"),
        ]),
        Type::concrete("authz-simple", "authz")
            .implementing(&["user-creatable"])
            .class([Property::told("identity", "string")]),
        Type::abstracted("event-loop-base", OBJECT).implementing(&["user-creatable"]).class([
            Property::told("thread-pool-min", "int"),
            Property::told("aio-max-batch", "int"),
            Property::told("thread-pool-max", "int"),
        ]),
        Type::concrete("iothread", "event-loop-base").class([
            Property::told("poll-max-ns", "int"),
            Property::told("poll-grow", "int"),
            Property::told("poll-shrink", "int"),
        ]),
        Type::abstracted("memory-backend", OBJECT).implementing(&["user-creatable"]).class([
            Property::told("share", "bool")
                .described("Mark the memory as private to QEMU or shared"),
            Property::told("size", "int").described("Size of the memory region (ex: 500M)"),
            Property::told("dump", "bool").described("Set to 'off' to exclude from core dump"),
            Property::told("prealloc-threads", "int")
                .described("Number of CPU threads to use for prealloc"),
            Property::told("x-use-canonical-path-for-ramblock-id", "bool"),
            Property::told("policy", "HostMemPolicy").described("Set the NUMA policy"),
            Property::told("prealloc-context", "link<thread-context>")
                .described("Context to use for creating CPU threads for preallocation"),
            Property::told("prealloc", "bool").described("Preallocate memory"),
            Property::told("reserve", "bool")
                .described("Reserve swap space (or huge pages) if applicable"),
            Property::told("host-nodes", "int")
                .described("Binds memory to the list of NUMA host nodes"),
            Property::told("merge", "bool").described("Mark memory as mergeable"),
        ]),
        Type::concrete("memory-backend-file", "memory-backend").class([
            Property::told("pmem", "bool"),
            Property::told("align", "int"),
            Property::told("offset", "int").described("Offset into the target file (ex: 1G)"),
            Property::told("mem-path", "string"),
            Property::told("rom", "OnOffAuto")
                .described("Whether to create Read Only Memory (ROM)"),
            Property::told("discard-data", "bool"),
            Property::told("readonly", "bool"),
        ]),
        Type::concrete("memory-backend-memfd", "memory-backend").class([
            Property::told("hugetlb", "bool").described("Use huge pages"),
            Property::told("seal", "bool").described("Seal growing & shrinking"),
            Property::told("hugetlbsize", "int").described("Huge pages size (ex: 2M, 1G)"),
        ]),
        Type::concrete("memory-backend-ram", "memory-backend"),
        Type::concrete("memory-backend-shm", "memory-backend"),
        Type::abstracted("rng-backend", OBJECT)
            .implementing(&["user-creatable"])
            .class([Property::fixed("opened", "bool")]),
        Type::concrete("rng-builtin", "rng-backend"),
        Type::concrete("rng-random", "rng-backend").class([Property::told("filename", "string")]),
        Type::abstracted("secret_common", OBJECT).implementing(&["user-creatable"]).class([
            Property::told("iv", "string"),
            Property::told("keyid", "string"),
            Property::told("format", "QCryptoSecretFormat"),
        ]),
        Type::concrete("secret", "secret_common")
            .class([Property::told("file", "string"), Property::told("data", "string")]),
        Type::abstracted("tls-creds", OBJECT).class([
            Property::told("endpoint", "QCryptoTLSCredsEndpoint"),
            Property::told("dir", "string"),
            Property::told("verify-peer", "bool"),
            Property::told("priority", "string"),
        ]),
        Type::concrete("tls-creds-x509", "tls-creds").implementing(&["user-creatable"]).class([
            Property::told("sanity-check", "bool"),
            Property::told("passwordid", "string"),
        ]),
    ];
    keep_available(&mut types);
    types
}

/// Leave out what cannot be made, and properties that are not taken.
fn keep_available(types: &mut Vec<Type>) {
    types.retain(|of| of.is_abstract || options::TYPES.contains(&of.name));
    let parents: BTreeMap<_, _> = types.iter().map(|of| (of.name, of.parent)).collect();
    let mut taken: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for of in types.iter().filter(|of| !of.is_abstract) {
        let members = schema::arguments_of("object-add", of.name);
        for name in
            std::iter::successors(Some(of.name), |name| parents.get(name).copied().flatten())
        {
            taken.entry(name).or_default().extend(members.iter().cloned());
        }
    }
    types.retain(|of| taken.contains_key(of.name));
    for of in types {
        let Some(taken) = taken.get(of.name) else { continue };
        of.class
            .retain(|property| property.access != Access::Told || taken.contains(property.name));
    }
}
