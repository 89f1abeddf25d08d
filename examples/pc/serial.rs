//! The first serial port, on standard input and output: the 16550 of `vm-superio`.

use std::error::Error;
use std::io::{self, Read, Stdout};
use std::ops::RangeInclusive;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use plugin_sdk::IrqEvent;
use vm_superio::serial::NoEvents;
use vm_superio::{Serial, SerialState, Trigger};

/// Its eight registers.
pub(crate) const PORTS: RangeInclusive<u16> = 0x3f8..=0x3ff;
/// Bits of the interrupt enable register: for received data, for an empty transmitter.
const ENABLE_INPUT: u8 = 0x01;
const ENABLE_ROOM: u8 = 0x02;
/// In the interrupt identification register: the transmitter is empty.
const ROOM: u8 = 0x02;
/// The line it interrupts by.
pub(crate) const LINE: u32 = 4;

struct Line(Arc<IrqEvent>);

impl Trigger for Line {
    type E = plugin_sdk::Error;

    fn trigger(&self) -> Result<(), Self::E> {
        self.0.raise()
    }
}

/// The port, shared by the vCPU's thread and those that [`start`](SerialPort::start) makes.
pub(crate) struct SerialPort {
    serial: Mutex<Serial<Line, NoEvents, Stdout>>,
    /// The guest has looked at the port, so there may be room for more input.
    looked: Condvar,
    line: Arc<IrqEvent>,
}

impl SerialPort {
    /// Makes the port and the threads that serve it until the process ends: one for its input, one that raises the line again
    /// when the guest has ended an interrupt and input is left.
    pub(crate) fn start(line: IrqEvent) -> Arc<Self> {
        let line = Arc::new(line);
        let serial = Serial::new(Line(Arc::clone(&line)), io::stdout());
        let port = Arc::new(Self { serial: Mutex::new(serial), looked: Condvar::new(), line });
        let (input, interrupts) = (Arc::clone(&port), Arc::clone(&port));
        thread::spawn(move || report(input.take_input()));
        thread::spawn(move || report(interrupts.interrupt_again()));
        port
    }

    pub(crate) fn read(&self, port: u16) -> u8 {
        let value = self.lock().read(register(port));
        self.looked.notify_one();
        value
    }

    /// # Errors
    /// Those of standard output, and of the line's eventfd.
    pub(crate) fn write(&self, port: u16, value: u8) -> Result<(), Box<dyn Error>> {
        Ok(self.lock().write(register(port), value)?)
    }

    fn lock(&self) -> MutexGuard<'_, Serial<Line, NoEvents, Stdout>> {
        self.serial.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Standard input goes to the guest as it has room for it, up to the input's end.
    fn take_input(&self) -> Result<(), Box<dyn Error>> {
        for byte in io::stdin().lock().bytes() {
            let full = |serial: &mut Serial<Line, NoEvents, Stdout>| serial.fifo_capacity() == 0;
            let mut serial = self.looked.wait_while(self.lock(), full).unwrap_or_else(PoisonError::into_inner);
            serial.enqueue_raw_bytes(&[byte?])?;
        }
        Ok(())
    }

    /// What came before the end of the last interrupt, input or room for output, found the line high, and raised nothing.
    fn interrupt_again(&self) -> Result<(), Box<dyn Error>> {
        loop {
            self.line.wait_resample()?;
            let state = self.lock().state();
            if interrupts(&state) {
                self.line.raise()?;
            }
        }
    }
}

/// Whether the port has a reason to interrupt that the guest has enabled.
fn interrupts(state: &SerialState) -> bool {
    let has_input = !state.in_buffer.is_empty() && state.interrupt_enable & ENABLE_INPUT != 0;
    let has_room = state.interrupt_identification & ROOM != 0 && state.interrupt_enable & ENABLE_ROOM != 0;
    has_input || has_room
}

/// Of one of [`PORTS`].
fn register(port: u16) -> u8 {
    (port - PORTS.start()) as u8
}

fn report(result: Result<(), Box<dyn Error>>) {
    if let Err(error) = result {
        eprintln!("the serial port: {error}");
    }
}
