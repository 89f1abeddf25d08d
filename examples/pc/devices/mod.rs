//! The devices that a PC's firmware asks for, by their ports. None looks at a clock or does I/O of its own: time comes with
//! the access, and what a device prints goes to a writer that it was given.

pub(crate) mod ata;
pub(crate) mod cmos;
pub(crate) mod debug_port;
pub(crate) mod fw_cfg;
pub(crate) mod pci;
pub(crate) mod port_b;
pub(crate) mod power;
pub(crate) mod reset;

/// What a port without a device reads as: nothing pulls the lines of the bus down.
pub(crate) const FLOATING: u8 = 0xff;

#[cfg(test)]
mod tests {
    use std::io::{Cursor, sink};
    use std::time::Duration;

    use plugin_sdk::kvm_pit_state2;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// What a guest can do to one of the devices.
    #[derive(Clone, Debug)]
    enum Access {
        Read { port: u16, length: usize },
        Write { port: u16, data: Vec<u8> },
    }

    fn access() -> impl Strategy<Value = Access> {
        let port = prop_oneof![
            4 => ata::COMMAND,
            1 => Just(ata::CONTROL),
            1 => fw_cfg::SELECTOR..=fw_cfg::DATA,
            1 => cmos::INDEX..=cmos::DATA,
            1 => *pci::ADDRESS.start()..=*pci::DATA.end(),
            1 => Just(debug_port::PORT),
            1 => Just(port_b::PORT),
            1 => power::PORTS,
        ];
        // Those commands, numbers and lengths often that a device makes something of.
        let byte = prop_oneof![Just(0x20), Just(0x30), Just(0xec), Just(0xe0), 0..4u8, any::<u8>()];
        let read = (port.clone(), prop_oneof![Just(1), Just(ata::SECTOR), 0..4096usize]);
        let data = prop_oneof![4 => (byte, 1..=2usize), 1 => (any::<u8>(), 0..1100usize)];
        let write = (port, data.prop_map(|(byte, length)| vec![byte; length]));
        prop_oneof![
            read.prop_map(|(port, length)| Access::Read { port, length }),
            write.prop_map(|(port, data)| Access::Write { port, data }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// The guest is trusted no more than the plugin is by the VMM. Most of what could go wrong here is a panic.
        #[test]
        fn whatever_a_guest_does_the_devices_live_on(accesses in vec(access(), 0..200), now in any::<u64>()) {
            let now = Duration::from_nanos(now);
            let mut disk = ata::Disk::new(Cursor::new(vec![0; 4 * ata::SECTOR])).unwrap();
            let mut fw_cfg = fw_cfg::FwCfg::new(vec![fw_cfg::File { name: "etc/file", content: vec![1; 100] }]);
            let mut cmos = cmos::Cmos::new(64 << 20);
            let mut pci = pci::Pci::default();
            let mut debug_port = debug_port::DebugPort::new(sink());
            let mut port_b = port_b::PortB::default();
            let mut power = power::Power::default();
            for access in accesses {
                match access {
                    Access::Read { port, length } => match port {
                        ata::DATA => disk.read_data(&mut vec![0; length]),
                        fw_cfg::SELECTOR..=fw_cfg::DATA => fw_cfg.read(&mut vec![0; length]),
                        debug_port::PORT => drop(debug_port.read()),
                        cmos::INDEX..=cmos::DATA => drop(cmos.read(port, now)),
                        port_b::PORT => drop(port_b.read(&kvm_pit_state2::default(), now)),
                        port if power::PORTS.contains(&port) => drop(power.read(port)),
                        port if pci::ADDRESS.contains(&port) || pci::DATA.contains(&port) => drop(pci.read(port)),
                        port => drop(disk.read(port)),
                    },
                    Access::Write { port, data } => match (port, data.first().copied()) {
                        (ata::DATA, _) => disk.write_data(&data),
                        (port, _) if pci::ADDRESS.contains(&port) => pci.write(port, &data),
                        (_, None) => {}
                        (fw_cfg::SELECTOR..=fw_cfg::DATA, Some(byte)) => fw_cfg.select(byte.into()),
                        (debug_port::PORT, Some(byte)) => debug_port.write(byte).unwrap(),
                        (cmos::INDEX..=cmos::DATA, Some(byte)) => cmos.write(port, byte),
                        (port_b::PORT, Some(byte)) => port_b.write(byte),
                        (port, Some(byte)) if power::PORTS.contains(&port) => drop(power.write(port, byte)),
                        (port, Some(byte)) => disk.write(port, byte),
                    },
                }
            }
        }
    }
}
