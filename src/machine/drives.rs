//! The drives of the command line while devices take them.

use super::build::BuildError;
use super::spec::MachineSpec;
use crate::block::node::Drive;
use crate::net::descriptors::Descriptors;

/// Every drive, open; a device takes it out.
pub(super) struct Drives(Vec<(String, Option<Drive>)>);

impl Drives {
    /// Open all of them.
    pub(super) fn open(spec: &MachineSpec, descriptors: &Descriptors) -> Result<Self, BuildError> {
        // With -incoming the machine that comes still has the images.
        let active = spec.incoming.is_none();
        let open = |drive| {
            let refused = |error: crate::block::image::ImageError, origin: &str| {
                BuildError::Device { origin: origin.to_owned(), reason: error.to_string() }
            };
            let spec: &super::spec::DriveSpec = drive;
            Drive::open(spec, active, descriptors)
                .map(|drive| (spec.id.clone(), Some(drive)))
                .map_err(|error| refused(error, &spec.origin))
        };
        spec.drives.iter().map(open).collect::<Result<_, _>>().map(Self)
    }

    /// The drive that the property `what` names. The error is a sentence, QEMU's.
    pub(super) fn take(&mut self, what: &str, id: &str) -> Result<Drive, String> {
        let slot = self.0.iter_mut().find(|(known, _)| known == id);
        let (_, slot) = slot.ok_or_else(|| format!("Property '{what}' can't find value '{id}'"))?;
        slot.take().ok_or_else(|| format!("Drive '{id}' is already in use by another device"))
    }
}
