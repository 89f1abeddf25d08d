//! A 16550 serial port between the guest and the terminal: what is typed is what the guest receives, what the guest sends
//! is printed. The guest prints a line and then echoes whatever it is sent, until Ctrl-D or the end of the input.
//!
//! The port itself is `vm-superio`'s. This plugin connects it: its registers to the guest's accesses, its interrupt to an
//! eventfd, its two ends to standard input and output.

use std::error::Error;
use std::io::{self, Read, Stdout};
use std::process::ExitCode;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use plugin_sdk::{AddressSpace, Connection, Event, GuestMemory, IrqEvent, MemoryFlags, State, Vcpu};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcsetattr};
use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};

/// The first of the port's eight registers, where a PC has its first serial port, and the line it interrupts by.
const PORT: u64 = 0x3f8;
const LINE: u32 = 4;

/// A port of this example's own: the guest writes to it when it is done.
const END: u64 = 0xf4;

/// What ends the guest when it receives it: Ctrl-D. It gets one at the end of the input too.
const END_OF_INPUT: u8 = 0x04;

/// What the guest executes: real-mode code, to be at 0x1000, where the texts follow.
#[rustfmt::skip]
const GUEST_CODE: [u8; 106] = [
    // The handler's address into the vector table: entry 0x24.
    0xc7, 0x06, 0x90, 0x00, 0x33, 0x10,  // mov word [0x90], handler
    0xc7, 0x06, 0x92, 0x00, 0x00, 0x00,  // mov word [0x92], 0
    // The 8259: pin 0 is vector 0x20, and pin 4 alone is let through.
    0xb0, 0x11, 0xe6, 0x20,              // mov al, 0x11; out 0x20, al
    0xb0, 0x20, 0xe6, 0x21,              // mov al, 0x20; out 0x21, al
    0xb0, 0x04, 0xe6, 0x21,              // mov al, 0x04; out 0x21, al
    0xb0, 0x01, 0xe6, 0x21,              // mov al, 0x01; out 0x21, al
    0xb0, 0xef, 0xe6, 0x21,              // mov al, 0xef; out 0x21, al
    0xbe, 0x6a, 0x10,                    // mov si, BANNER
    0xe8, 0x38, 0x00,                    // call print
    // Interrupt when something is received; what came before that is taken right away.
    0xba, 0xf9, 0x03,                    // mov dx, interrupt enable register
    0xb0, 0x01, 0xee,                    // mov al, 1; out dx, al
    0xe8, 0x0c, 0x00,                    // call receive
    0xfb,                                // sti
    0xf4,                                // wait: hlt
    0xeb, 0xfd,                          // jmp wait

    // handler, at 0x1033
    0xe8, 0x05, 0x00,                    // call receive
    0xb0, 0x20, 0xe6, 0x20,              // mov al, 0x20; out 0x20, al: end of interrupt
    0xcf,                                // iret

    // receive: echo all that is there, a line feed after each carriage return
    0xba, 0xfd, 0x03, 0xec,              // mov dx, line status register; in al, dx
    0xa8, 0x01, 0x74, 0x26,              // test al, 1; jz done
    0xba, 0xf8, 0x03, 0xec,              // mov dx, data register; in al, dx
    0x3c, 0x04, 0x74, 0x0a,              // cmp al, END_OF_INPUT; je end
    0xee,                                // out dx, al
    0x3c, 0x0d, 0x75, 0xeb,              // cmp al, 13; jne receive
    0xb0, 0x0a, 0xee,                    // mov al, 10; out dx, al
    0xeb, 0xe6,                          // jmp receive

    // end
    0xbe, 0x8c, 0x10,                    // mov si, FAREWELL
    0xe8, 0x03, 0x00,                    // call print
    0xe6, 0xf4,                          // out END, al
    0xf4,                                // hlt

    // print: the text at si, up to a byte of 0
    0xba, 0xf8, 0x03,                    // mov dx, data register
    0xac,                                // next: lodsb
    0x84, 0xc0, 0x74, 0x03,              // test al, al; jz done
    0xee, 0xeb, 0xf8,                    // out dx, al; jmp next
    0xc3,                                // done: ret
];

/// At 0x106a, behind the code.
const BANNER: &[u8] = b"Serial port ready, Ctrl-D ends.\r\n\0";
/// At 0x108c, behind that.
const FAREWELL: &[u8] = b"\r\nBye.\r\n\0";

/// Where the code lies in guest-physical memory.
const GUEST_ADDRESS: u64 = 0x1000;

/// Where the guest's stack begins, downwards.
const STACK: u64 = 0x8000;

/// How the port interrupts.
struct Interrupt(Arc<IrqEvent>);

impl Trigger for Interrupt {
    type E = plugin_sdk::Error;

    fn trigger(&self) -> Result<(), Self::E> {
        self.0.raise()
    }
}

/// The port, shared by the threads that serve its sides.
struct Port {
    serial: Mutex<Serial<Interrupt, NoEvents, Stdout>>,
    /// The guest has taken something from the port, so there is room again.
    room: Condvar,
    irq: Arc<IrqEvent>,
    /// How many bytes wait in an empty port.
    empty: usize,
}

impl Port {
    fn new(irq: IrqEvent) -> Self {
        let irq = Arc::new(irq);
        let serial = Serial::new(Interrupt(Arc::clone(&irq)), io::stdout());
        let empty = serial.fifo_capacity();
        Self { serial: Mutex::new(serial), room: Condvar::new(), irq, empty }
    }

    fn serial(&self) -> MutexGuard<'_, Serial<Interrupt, NoEvents, Stdout>> {
        self.serial.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the guest receive `bytes`, as it takes them.
    fn receive(&self, mut bytes: &[u8]) -> Result<(), Box<dyn Error>> {
        while !bytes.is_empty() {
            let full = |serial: &mut Serial<Interrupt, NoEvents, Stdout>| serial.fifo_capacity() == 0;
            let mut serial = self.room.wait_while(self.serial(), full).unwrap_or_else(PoisonError::into_inner);
            let taken = serial.enqueue_raw_bytes(bytes)?;
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    /// Whatever is read from standard input goes to the guest, and at its end what the guest takes for one.
    fn forward_input(&self) -> Result<(), Box<dyn Error>> {
        let mut bytes = [0; 64];
        loop {
            match io::stdin().lock().read(&mut bytes) {
                Ok(0) => return self.receive(&[END_OF_INPUT]),
                Ok(length) => self.receive(&bytes[..length])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// A byte that came after the guest's last look, and before it ended the interrupt, found the line high and raised
    /// nothing. So at each end of an interrupt one looks again.
    fn interrupt_again(&self) -> Result<(), Box<dyn Error>> {
        loop {
            self.irq.wait_resample()?;
            if self.serial().fifo_capacity() < self.empty {
                self.irq.raise()?;
            }
        }
    }
}

/// A terminal that hands over each key as it is pressed; as it was before when this is dropped.
struct RawTerminal(Termios);

impl RawTerminal {
    /// `None` where standard input is no terminal.
    fn of_stdin() -> io::Result<Option<Self>> {
        if !isatty(io::stdin()) {
            return Ok(None);
        }
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Some(Self(before)))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

fn main() -> ExitCode {
    // The terminal is itself again before an error is printed.
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let mut connection = Connection::from_env()?;
    let memory = GuestMemory::new(0x10000)?;
    memory.write(GUEST_ADDRESS, &[&GUEST_CODE, BANNER, FAREWELL].concat())?;
    let _mapped = connection.map_memory(&memory, 0..memory.size(), 0, MemoryFlags::default())?;
    connection.reserve_range(AddressSpace::Pio, PORT, 8)?;
    connection.reserve_range(AddressSpace::Pio, END, 1)?;
    let port = Arc::new(Port::new(connection.create_irq_event(LINE)?));

    let mut vcpus = connection.vcpus()?;
    connection.start()?;
    let _terminal = RawTerminal::of_stdin()?;
    for work in [Port::forward_input, Port::interrupt_again] {
        let port = Arc::clone(&port);
        thread::spawn(move || {
            if let Err(error) = work(&port) {
                eprintln!("{error}");
            }
        });
    }
    // The two threads are left where they wait: the process ends when the guest is done.
    serve(&mut vcpus[0], &port)
}

/// Answers the guest until it is done or the VMM ends the VM.
fn serve(vcpu: &mut Vcpu, port: &Port) -> Result<(), Box<dyn Error>> {
    loop {
        let event = match vcpu.wait() {
            Err(plugin_sdk::Error::Disconnected) => return Ok(()),
            event => event?,
        };
        match event {
            Event::Init(mut init) => {
                boot(init.state())?;
                init.resume()?;
            }
            Event::Read(read) => {
                let mut answer = vec![0; read.access().length];
                if let Some(register) = register(read.access().address) {
                    // A string instruction reads the register once an item. It has one byte; of a wider item the rest is 0.
                    for item in answer.chunks_mut(read.width()) {
                        item[0] = port.serial().read(register);
                    }
                    port.room.notify_one();
                }
                read.answer(&answer)?;
            }
            Event::Write(write) if write.access().address == END => return Ok(()),
            Event::Write(write) => {
                if let Some(register) = register(write.access().address) {
                    for item in write.data().chunks(write.width()) {
                        port.serial().write(register, item[0])?;
                    }
                }
                write.resume()?;
            }
            other => other.resume()?,
        }
    }
}

/// Which of the port's registers is at `address`.
fn register(address: u64) -> Option<u8> {
    address.checked_sub(PORT)?.try_into().ok()
}

/// Puts the vCPU at the program's first instruction, in 16-bit real mode.
fn boot(state: &mut State<'_>) -> Result<(), plugin_sdk::Error> {
    let mut sregs = state.sregs()?;
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    state.set_sregs(&sregs);
    let mut regs = state.regs()?;
    regs.rip = GUEST_ADDRESS;
    regs.rsp = STACK;
    state.set_regs(&regs);
    Ok(())
}
