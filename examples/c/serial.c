/*
 * A 16550 serial port on the terminal, in C: serial.rs says it in Rust with the port of a library, and README.md
 * describes the guest.
 *
 * What is typed is what the guest receives, and what the guest sends is printed. The guest prints a line and then
 * echoes whatever it is sent, until Ctrl-D or the end of the input.
 */
#include "guest.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <termios.h>

/* The first of the port's eight registers, where a PC has its first serial port, and the line it interrupts by. */
#define PORT 0x3f8
#define LINE 4

/* A port of this example's own: the guest writes to it when it is done. */
#define END 0xf4

/* What ends the guest when it receives it: Ctrl-D. It gets one at the end of the input too. */
#define END_OF_INPUT 0x04

/* What the guest executes, with its texts behind it. serial.rs has it with its instructions. */
static const uint8_t guest_code[] = {
	0xc7, 0x06, 0x90, 0x00, 0x33, 0x10, 0xc7, 0x06, 0x92, 0x00, 0x00, 0x00, 0xb0, 0x11, 0xe6, 0x20, 0xb0, 0x20,
	0xe6, 0x21, 0xb0, 0x04, 0xe6, 0x21, 0xb0, 0x01, 0xe6, 0x21, 0xb0, 0xef, 0xe6, 0x21, 0xbe, 0x6a, 0x10, 0xe8,
	0x38, 0x00, 0xba, 0xf9, 0x03, 0xb0, 0x01, 0xee, 0xe8, 0x0c, 0x00, 0xfb, 0xf4, 0xeb, 0xfd, 0xe8, 0x05, 0x00,
	0xb0, 0x20, 0xe6, 0x20, 0xcf, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0x26, 0xba, 0xf8, 0x03, 0xec, 0x3c,
	0x04, 0x74, 0x0a, 0xee, 0x3c, 0x0d, 0x75, 0xeb, 0xb0, 0x0a, 0xee, 0xeb, 0xe6, 0xbe, 0x8c, 0x10, 0xe8, 0x03,
	0x00, 0xe6, 0xf4, 0xf4, 0xba, 0xf8, 0x03, 0xac, 0x84, 0xc0, 0x74, 0x03, 0xee, 0xeb, 0xf8, 0xc3, 0x53, 0x65,
	0x72, 0x69, 0x61, 0x6c, 0x20, 0x70, 0x6f, 0x72, 0x74, 0x20, 0x72, 0x65, 0x61, 0x64, 0x79, 0x2c, 0x20, 0x43,
	0x74, 0x72, 0x6c, 0x2d, 0x44, 0x20, 0x65, 0x6e, 0x64, 0x73, 0x2e, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x42, 0x79,
	0x65, 0x2e, 0x0d, 0x0a, 0x00,
};

/* The registers of a 16550, by their distance from PORT, and the bits that count here. */
enum {
	DATA = 0,             /* read: received; written: to be sent. With LCR_DLAB: the divisor's low byte */
	INTERRUPT_ENABLE = 1, /* with LCR_DLAB: the divisor's high byte */
	IER_RECEIVED = 0x01,
	IER_SENT = 0x02,
	INTERRUPT_ID = 2, /* read; the FIFO control when written */
	IIR_NONE = 0x01,
	IIR_SENT = 0x02,
	IIR_RECEIVED = 0x04,
	IIR_FIFO = 0xc0,
	LINE_CONTROL = 3,
	LCR_DLAB = 0x80,
	MODEM_CONTROL = 4,
	LINE_STATUS = 5,
	LSR_RECEIVED = 0x01,
	LSR_IDLE = 0x60, /* what was sent is sent */
	MODEM_STATUS = 6,
	MSR_CONNECTED = 0xb0,
	SCRATCH = 7,
};

/* The port. Three threads use it: the vCPU's, the input's, and the one that waits for the ends of interrupts. */
static struct {
	pthread_mutex_t lock;
	/* The guest has taken a byte. */
	pthread_cond_t room;
	int trigger, resample;
	uint8_t received[64];
	size_t first, count;
	uint8_t interrupt_enable, line_control, modem_control, scratch, divisor[2];
	/* The guest is to be told that what it sent is sent. */
	bool sent;
} port = { .lock = PTHREAD_MUTEX_INITIALIZER, .room = PTHREAD_COND_INITIALIZER, .divisor = { 12, 0 } };

static bool received_pending(void)
{
	return port.count > 0 && (port.interrupt_enable & IER_RECEIVED);
}

static bool sent_pending(void)
{
	return port.sent && (port.interrupt_enable & IER_SENT);
}

/* Raises the line if there is a reason to. */
static void interrupt(void)
{
	uint64_t one = 1;
	if ((received_pending() || sent_pending()) && write(port.trigger, &one, sizeof one) != sizeof one) {
		perror("interrupting");
		exit(1);
	}
}

static uint8_t read_register(uint64_t reg)
{
	uint8_t value = 0;
	switch (reg) {
	case DATA:
		if (port.line_control & LCR_DLAB)
			return port.divisor[0];
		if (port.count > 0) {
			value = port.received[port.first];
			port.first = (port.first + 1) % sizeof port.received;
			port.count--;
			pthread_cond_signal(&port.room);
		}
		return value;
	case INTERRUPT_ENABLE:
		return port.line_control & LCR_DLAB ? port.divisor[1] : port.interrupt_enable;
	case INTERRUPT_ID:
		if (received_pending())
			return IIR_FIFO | IIR_RECEIVED;
		if (sent_pending()) {
			port.sent = false;
			return IIR_FIFO | IIR_SENT;
		}
		return IIR_FIFO | IIR_NONE;
	case LINE_CONTROL:
		return port.line_control;
	case MODEM_CONTROL:
		return port.modem_control;
	case LINE_STATUS:
		return LSR_IDLE | (port.count > 0 ? LSR_RECEIVED : 0);
	case MODEM_STATUS:
		return MSR_CONNECTED;
	case SCRATCH:
		return port.scratch;
	}
	return 0;
}

static void write_register(uint64_t reg, uint8_t value)
{
	switch (reg) {
	case DATA:
		if (port.line_control & LCR_DLAB) {
			port.divisor[0] = value;
			return;
		}
		if (write(STDOUT_FILENO, &value, 1) != 1) {
			perror("printing");
			exit(1);
		}
		port.sent = true;
		if (sent_pending())
			interrupt();
		return;
	case INTERRUPT_ENABLE:
		if (port.line_control & LCR_DLAB) {
			port.divisor[1] = value;
			return;
		}
		port.interrupt_enable = value & 0x0f;
		interrupt();
		return;
	case LINE_CONTROL:
		port.line_control = value;
		return;
	case MODEM_CONTROL:
		port.modem_control = value;
		return;
	case SCRATCH:
		port.scratch = value;
		return;
	}
}

/* Lets the guest receive a byte, as soon as there is room for it. */
static void receive(uint8_t byte)
{
	pthread_mutex_lock(&port.lock);
	while (port.count == sizeof port.received)
		pthread_cond_wait(&port.room, &port.lock);
	port.received[(port.first + port.count++) % sizeof port.received] = byte;
	interrupt();
	pthread_mutex_unlock(&port.lock);
}

/* Whatever is read from standard input goes to the guest, and at its end what the guest takes for one. */
static void *forward_input(void *unused)
{
	(void)unused;
	uint8_t bytes[64];
	ssize_t length;
	do {
		length = read(STDIN_FILENO, bytes, sizeof bytes);
		for (ssize_t i = 0; i < length; i++)
			receive(bytes[i]);
	} while (length > 0 || (length < 0 && errno == EINTR));
	receive(END_OF_INPUT);
	return NULL;
}

/*
 * A byte that came after the guest's last look, and before it ended the interrupt, found the line high and raised
 * nothing. So at each end of an interrupt one looks again.
 */
static void *interrupt_again(void *unused)
{
	(void)unused;
	uint64_t count;
	while (read(port.resample, &count, sizeof count) == sizeof count) {
		pthread_mutex_lock(&port.lock);
		interrupt();
		pthread_mutex_unlock(&port.lock);
	}
	return NULL;
}

/* The terminal as it was. */
static struct termios terminal;

static void restore_terminal(void)
{
	tcsetattr(STDIN_FILENO, TCSANOW, &terminal);
}

/* Lets a terminal hand over each key as it is pressed, until this process exits. */
static void make_terminal_raw(void)
{
	if (tcgetattr(STDIN_FILENO, &terminal) < 0)
		return; /* no terminal */
	struct termios raw = terminal;
	cfmakeraw(&raw);
	atexit(restore_terminal);
	tcsetattr(STDIN_FILENO, TCSANOW, &raw);
}

static void start_thread(void *(*work)(void *))
{
	pthread_t thread;
	int error = pthread_create(&thread, NULL, work, NULL);
	if (error != 0)
		check(-error, "pthread_create");
}

int main(void)
{
	/* When the VMM is gone, calls shall fail, and the terminal become itself again. */
	signal(SIGPIPE, SIG_IGN);
	struct crosvm *crosvm;
	CHECK(crosvm_connect(&crosvm));
	give_memory(crosvm, guest_code, sizeof guest_code);
	CHECK(crosvm_reserve_range(crosvm, CROSVM_ADDRESS_SPACE_IOPORT, PORT, 8));
	CHECK(crosvm_reserve_range(crosvm, CROSVM_ADDRESS_SPACE_IOPORT, END, 1));
	struct crosvm_irq *irq;
	CHECK(crosvm_create_irq_event(crosvm, LINE, &irq));
	port.trigger = CHECK(crosvm_irq_event_get_fd(irq));
	port.resample = CHECK(crosvm_irq_event_get_resample_fd(irq));
	struct crosvm_vcpu *vcpu;
	CHECK(crosvm_get_vcpu(crosvm, 0, &vcpu));
	CHECK(crosvm_start(crosvm));
	make_terminal_raw();
	start_thread(forward_input);
	start_thread(interrupt_again);

	struct crosvm_vcpu_event event;
	/* When the VMM ends the VM, waiting fails. */
	while (crosvm_vcpu_wait(vcpu, &event) == 0) {
		if (event.kind == CROSVM_VCPU_EVENT_KIND_INIT) {
			boot(vcpu);
		} else if (event.kind == CROSVM_VCPU_EVENT_KIND_IO_ACCESS) {
			if (event.io_access.address == END)
				return 0;
			/*
			 * A string instruction accesses the register once an item. It has one byte; of a wider item
			 * that is read the rest is 0.
			 */
			uint64_t reg = event.io_access.address - PORT;
			uint8_t *item = event.io_access.data;
			uint32_t width, count;
			CHECK(outboard_vcpu_get_io_items(vcpu, &width, &count));
			pthread_mutex_lock(&port.lock);
			for (uint32_t i = 0; i < count; i++, item += width) {
				if (event.io_access.is_write)
					write_register(reg, *item);
				else
					*item = read_register(reg);
			}
			pthread_mutex_unlock(&port.lock);
		}
		CHECK(crosvm_vcpu_resume(vcpu));
	}
	return 0;
}
