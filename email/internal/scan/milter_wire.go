package scan

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The milter protocol has no standard but sendmail's libmilter/mfdef.h: packets of
// a length, a command and data, both ways.

// Commands to a milter.
const (
	milterNegotiate = 'O'
	milterMacros    = 'D'
	milterConnect   = 'C'
	milterHelo      = 'H'
	milterMail      = 'M'
	milterRcpt      = 'R'
	milterData      = 'T'
	milterHeader    = 'L'
	milterEOH       = 'N'
	milterBody      = 'B'
	milterEOM       = 'E'
	milterQuit      = 'Q'
)

// Answers of a milter.
const (
	answerContinue   = 'c'
	answerAccept     = 'a'
	answerReject     = 'r'
	answerTempFail   = 't'
	answerReply      = 'y'
	answerDiscard    = 'd'
	answerSkip       = 's'
	answerProgress   = 'p'
	answerConnFail   = 'f'
	answerShutdown   = '4'
	answerAddHeader  = 'h'
	answerInsHeader  = 'i'
	answerChgHeader  = 'm'
	answerQuarantine = 'q'
)

const (
	milterVersion = 6
	// milterActions is what we do for a milter at the end of a message: add
	// headers, change headers, quarantine.
	milterActions = 0x01 | 0x10 | 0x20
	// milterProtocol is every wish that we heed: commands to leave out (0x7f,
	// 0x200, 0x100), skip (0x400), commands that are not answered (0x80,
	// 0xff000), and values with their leading space (0x100000).
	milterProtocol = noConnect | noHelo | noMail | noRcpt | noBody | noHeaders | noEOH | noUnknown | noData |
		canSkip | noHeaderReply | noConnectReply | noHeloReply | noMailReply | noRcptReply | noDataReply | noUnknownReply | noEOHReply | noBodyReply | leadingSpace

	noConnect      = 0x01
	noHelo         = 0x02
	noMail         = 0x04
	noRcpt         = 0x08
	noBody         = 0x10
	noHeaders      = 0x20
	noEOH          = 0x40
	noHeaderReply  = 0x80
	noUnknown      = 0x100
	noData         = 0x200
	canSkip        = 0x400
	noConnectReply = 0x1000
	noHeloReply    = 0x2000
	noMailReply    = 0x4000
	noRcptReply    = 0x8000
	noDataReply    = 0x10000
	noUnknownReply = 0x20000
	noEOHReply     = 0x40000
	noBodyReply    = 0x80000
	leadingSpace   = 0x100000
)

const (
	maxMilterPacket = 64 << 10 // what libmilter sends at most, too
	milterChunk     = 65535
)

// milterWire speaks packets. What is written is sent when an answer is wanted.
type milterWire struct {
	r *bufio.Reader
	w *bufio.Writer
}

func newMilterWire(conn io.ReadWriter) *milterWire {
	return &milterWire{bufio.NewReader(conn), bufio.NewWriterSize(conn, milterChunk+5)}
}

func (w *milterWire) write(command byte, data ...[]byte) error {
	size := 1
	for _, d := range data {
		size += len(d)
	}
	head := append(binary.BigEndian.AppendUint32(nil, uint32(size)), command)
	w.w.Write(head) // errors of a bufio.Writer stay
	for _, d := range data {
		w.w.Write(d)
	}
	if _, err := w.w.Write(nil); err != nil {
		return fmt.Errorf("sending: %w", err)
	}
	return nil
}

func (w *milterWire) read() (command byte, data []byte, err error) {
	if err := w.w.Flush(); err != nil {
		return 0, nil, fmt.Errorf("sending: %w", err)
	}
	var head [4]byte
	if _, err := io.ReadFull(w.r, head[:]); err != nil {
		return 0, nil, fmt.Errorf("reading the answer: %w", noEOF(err))
	}
	size := binary.BigEndian.Uint32(head[:])
	if size == 0 {
		return 0, nil, errors.New("an empty packet as answer")
	}
	if size > maxMilterPacket+1 {
		return 0, nil, errAnswer
	}
	packet := make([]byte, size)
	if _, err := io.ReadFull(w.r, packet); err != nil {
		return 0, nil, fmt.Errorf("reading the answer: %w", noEOF(err))
	}
	return packet[0], packet[1:], nil
}

// cstring ends a text with NUL, which it cannot hold.
func cstring(s string) []byte {
	if i := bytes.IndexByte([]byte(s), 0); i >= 0 {
		s = s[:i]
	}
	return append([]byte(s), 0)
}

// cut reads a text that ends with NUL.
func cut(b []byte) (s string, rest []byte) {
	before, after, _ := bytes.Cut(b, []byte{0})
	return string(before), after
}

// parseNegotiation reads the milter's side of the negotiation: version, actions,
// protocol and the macros that it wants, which we give anyway.
func parseNegotiation(command byte, data []byte) (protocol uint32, err error) {
	if command != milterNegotiate || len(data) < 12 {
		return 0, fmt.Errorf("unexpected answer %q to the negotiation", command)
	}
	version := binary.BigEndian.Uint32(data)
	if version < 2 || version > milterVersion {
		return 0, fmt.Errorf("it speaks version %d of the protocol", version)
	}
	protocol = binary.BigEndian.Uint32(data[8:])
	// The upper bits are for the sizes of packets.
	if extra := protocol &^ milterProtocol & 0x0fffffff; extra != 0 {
		return 0, fmt.Errorf("it asks for unknown options %#x of the protocol", extra)
	}
	switch {
	case version < 3:
		protocol |= noUnknown | noData
	case version < 4:
		protocol |= noData
	}
	return protocol, nil
}
