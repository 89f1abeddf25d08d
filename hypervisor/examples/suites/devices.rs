//! The devices that the suites expect of a PC or of QEMU.

/// The number of vCPUs, in the configuration port.
const NB_CPUS: u16 = 0x05;
/// Bytes of RAM, in the configuration port.
const RAM_SIZE: u16 = 0x03;
/// The most vCPUs, in the configuration port.
const MAX_CPUS: u16 = 0x0f;

/// What an access asks of the board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing.
    None,
    /// The test is over, with this code.
    Exit(u32),
    /// A line of the interrupt controllers is set.
    Line { gsi: u32, high: bool },
}

/// All devices.
pub(crate) struct Devices {
    /// What came out of the serial port and of the debug port.
    pub(crate) output: Vec<u8>,
    /// The last POST code.
    pub(crate) post: Option<u8>,
    verbose: bool,
    vcpus: u32,
    ram: u64,
    /// The configuration port's value, from its next byte on.
    configuration: u64,
    /// The latch of the test device.
    latch: [u8; 4],
    /// POST codes that end test386: all came, or it halts.
    finished: bool,
    /// The test device's memory, each access to which exits.
    memory: Vec<u8>,
}

/// Where the test device's memory is.
const MEMORY: u64 = 0xff00_0000;

impl Devices {
    pub(crate) fn new(vcpus: u32, ram: u64, verbose: bool) -> Self {
        Self {
            output: Vec::new(),
            post: None,
            verbose,
            vcpus,
            ram,
            configuration: 0,
            latch: [0; 4],
            finished: false,
            memory: vec![0; 0x1_0000],
        }
    }

    /// Whether POST 0xff was seen.
    pub(crate) fn is_finished(&self) -> bool {
        self.finished
    }

    pub(crate) fn write(&mut self, port: u64, data: &[u8]) -> Effect {
        let value = data.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte));
        match port {
            0x3f8 | 0xe9 => {
                if self.verbose {
                    eprint!("{}", String::from_utf8_lossy(data));
                }
                self.output.extend(data);
            }
            0xf4 => return Effect::Exit(value),
            0x190 => {
                self.post = Some(value as u8);
                self.finished |= value as u8 == 0xff;
                if self.verbose {
                    eprintln!("POST {value:#x}");
                }
            }
            0x510 => {
                self.configuration = match value as u16 {
                    NB_CPUS | MAX_CPUS => self.vcpus.into(),
                    RAM_SIZE => self.ram,
                    _ => 0,
                }
            }
            0xe0..=0xe3 => {
                let at = (port - 0xe0) as usize;
                for (latch, byte) in self.latch.iter_mut().skip(at).zip(data) {
                    *latch = *byte;
                }
            }
            0x2000..=0x2017 => return Effect::Line { gsi: (port - 0x2000) as u32, high: value != 0 },
            _ => {}
        }
        Effect::None
    }

    /// Reads the test device's memory.
    pub(crate) fn load(&self, address: u64, data: &mut [u8]) {
        let at = address.wrapping_sub(MEMORY) as usize;
        if let Some(bytes) = at.checked_add(data.len()).and_then(|end| self.memory.get(at..end)) {
            data.copy_from_slice(bytes);
        }
    }

    /// Writes the test device's memory.
    pub(crate) fn store(&mut self, address: u64, data: &[u8]) {
        let at = address.wrapping_sub(MEMORY) as usize;
        if let Some(bytes) = at.checked_add(data.len()).and_then(|end| self.memory.get_mut(at..end)) {
            bytes.copy_from_slice(data);
        }
    }

    /// Reads a port, in items of `width` bytes.
    pub(crate) fn read(&mut self, port: u64, width: usize, data: &mut [u8]) {
        match port {
            // The transmitter is empty.
            0x3fd => data.fill(0x60),
            0x511 => {
                for byte in data {
                    *byte = self.configuration as u8;
                    self.configuration >>= 8;
                }
            }
            0xe0..=0xe3 => {
                let at = (port - 0xe0) as usize;
                for item in data.chunks_mut(width) {
                    for (byte, latch) in item.iter_mut().zip(self.latch.iter().skip(at)) {
                        *byte = *latch;
                    }
                }
            }
            0x3f8..=0x3ff | 0x70..=0x71 | 0x61 => data.fill(0),
            _ => data.fill(0xff),
        }
    }
}
