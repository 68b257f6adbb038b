//! The migration actors, wired to this machine: channels, guest memory, sections.

use std::sync::Arc;

use actix::prelude::*;
use serde_json::Value;

use super::build::Machine;
use super::dirty_rate::DirtyRate;
use super::vm::Exited;
use crate::actors::outlet::Outlet;
use crate::migration::channel::{
    self, Address, ChannelContext, ChannelError, Listener, ServerTlsChoice,
};
use crate::migration::destination::{
    Accept, AcceptError, Accepting, DestinationPeers, Listen, Listening, LiveSettings,
    MigrationDestination,
};
use crate::migration::message::{MigrationEvent, Settings};
use crate::migration::ram::machine::MachineMemory;
use crate::migration::source::{Connect, MigrationSource, Opening, SourcePeers, Writers};
use crate::migration::status::ErrorDesc;
use crate::net::descriptors::Descriptors;
use crate::objects::Objects;
use crate::tls::HandshakeError;

/// The machine type that the stream names.
const MACHINE: &str = "virt";

/// Start both actors, and the one that measures what they depend on, on an arbiter of their own: what they compute delays no monitor.
pub fn start(
    machine: &Machine,
    objects: &Objects,
    descriptors: &Descriptors,
    uuid: Option<[u8; 16]>,
    events: Recipient<MigrationEvent>,
    exit: Outlet<Exited>,
) -> (Addr<MigrationSource>, Addr<MigrationDestination>, Addr<DirtyRate>) {
    let channels = Channels { objects: objects.clone(), descriptors: descriptors.clone() };
    let outgoing = MachineMemory {
        ram: Arc::clone(&machine.ram),
        harts: machine.harts.clone(),
        devices: machine.roms.clone(),
    };
    let incoming = outgoing.clone();
    let arbiter = Arbiter::new().handle();
    let dirty_rate = DirtyRate::new(Arc::clone(&machine.ram), machine.harts.clone());
    let dirty_rate = DirtyRate::start_in_arbiter(&arbiter, |_| dirty_rate);
    let limit = dirty_rate.clone().recipient();
    let source = SourcePeers {
        events: events.clone(),
        quiesce: machine.vm.clone().recipient(),
        release_drives: machine.vm.clone().recipient(),
        hand_over: machine.vm.clone().recipient(),
        vcpus: machine.vcpus.iter().map(|vcpu| vcpu.clone().recipient()).collect(),
        writers: Writers { limit, harts: machine.harts.clone() },
        connect: Box::new(channels.clone()),
        memory: Box::new(move |settings| Box::new(outgoing.outgoing(settings))),
        sections: machine.sections.clone(),
        machine: MACHINE.to_owned(),
        uuid,
    };
    let destination = DestinationPeers {
        events,
        take_drives: machine.vm.clone().recipient(),
        release_drives: machine.vm.clone().recipient(),
        arrived: machine.vm.clone().recipient(),
        exit,
        listen: Box::new(channels),
        memory: Box::new(move |settings| Box::new(incoming.incoming(settings))),
        sections: machine.sections.clone(),
        machine: MACHINE.to_owned(),
        uuid,
    };
    (
        MigrationSource::start_in_arbiter(&arbiter, |_| MigrationSource::new(source)),
        MigrationDestination::start_in_arbiter(&arbiter, |_| {
            MigrationDestination::new(destination)
        }),
        dirty_rate,
    )
}

/// Channels of every kind, inside TLS if `tls-creds` names credentials.
#[derive(Debug, Clone)]
struct Channels {
    objects: Objects,
    descriptors: Descriptors,
}

impl Channels {
    fn context_of_source(&self, settings: &Settings) -> Result<ChannelContext, ErrorDesc> {
        let parameters = &settings.parameters;
        let descriptors = self.descriptors.clone();
        let direct_io = settings.direct_io();
        let mut context = ChannelContext { descriptors, direct_io, ..ChannelContext::default() };
        if !parameters.tls_creds.is_empty() {
            let hostname = Some(parameters.tls_hostname.as_str());
            let tls = self.objects.client_tls(&parameters.tls_creds, hostname);
            context.client_tls = Some(tls.map_err(|error| ErrorDesc::from(error.to_string()))?);
        }
        Ok(context)
    }

    /// Credentials are those that the settings name when somebody connects.
    fn context_of_destination(&self, settings: LiveSettings) -> ChannelContext {
        let objects = self.objects.clone();
        let direct_io = settings.borrow().direct_io();
        let choose = move || {
            let parameters = &settings.borrow().parameters;
            if parameters.tls_creds.is_empty() {
                return Ok(None);
            }
            let authz = Some(parameters.tls_authz.as_str());
            let tls = objects.server_tls(&parameters.tls_creds, authz);
            tls.map(Some).map_err(|error| error.to_string())
        };
        ChannelContext {
            descriptors: self.descriptors.clone(),
            server_tls: ServerTlsChoice::new(choose),
            direct_io,
            ..ChannelContext::default()
        }
    }
}

impl Connect for Channels {
    fn connect(&self, address: &Address, settings: &Settings) -> Opening {
        let (address, context) = (address.clone(), self.context_of_source(settings));
        Box::pin(async move {
            let opened = channel::connect(&address, &context?).await;
            opened.map_err(|error| ErrorDesc::from(error.to_string()))
        })
    }
}

impl Listen for Channels {
    fn listen(&self, address: &Address, settings: LiveSettings) -> Listening {
        let (address, context) = (address.clone(), self.context_of_destination(settings));
        Box::pin(async move {
            let listener = channel::listen(&address, &context).await;
            let listener = listener.map_err(|error| ErrorDesc::from(error.to_string()))?;
            let accept: Box<dyn Accept> = Box::new(Accepted(listener));
            Ok(accept)
        })
    }
}

struct Accepted(Listener);

impl Accept for Accepted {
    fn addresses(&self) -> Vec<Value> {
        self.0.addresses().to_vec()
    }

    fn accept(&mut self) -> Accepting<'_> {
        Box::pin(async {
            self.0.accept().await.map_err(|error| {
                let reason = ErrorDesc::from(error.to_string());
                match error {
                    ChannelError::OneChannel(_)
                    | ChannelError::Credentials(_)
                    | ChannelError::TlsOverFile => AcceptError::Final(reason),
                    ChannelError::Tls(HandshakeError::Refused(_)) => AcceptError::Refused(reason),
                    _ => AcceptError::Connection(reason),
                }
            })
        })
    }
}
