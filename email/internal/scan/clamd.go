package scan

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
)

// Clamd asks clamd of ClamAV by its command INSTREAM.
type Clamd struct{ backend Backend }

// NewClamd returns a scanner for malware.
func NewClamd(b Backend) *Clamd { return &Clamd{b} }

const (
	clamdChunk     = 64 << 10
	maxClamdAnswer = 4 << 10
)

// Scan sends the whole message. One beyond clamd's StreamMaxLength is an error
// that wraps [ErrTooLarge].
func (c *Clamd) Scan(ctx context.Context, m Message) (Verdict, error) {
	v := Verdict{Kind: Virus}
	err := c.backend.talk(ctx, "clamd", func(conn net.Conn) error {
		// clamd answers and hangs up when it has had enough: what it said is
		// worth more than the failed write.
		sendErr := sendChunks(conn, io.NewSectionReader(m.Data, 0, m.Data.Size()))
		answer, err := bufio.NewReader(io.LimitReader(conn, maxClamdAnswer)).ReadString(0)
		if err != nil && sendErr != nil {
			return sendErr
		}
		if err == io.EOF && len(answer) == maxClamdAnswer {
			return errAnswer
		}
		if err != nil {
			return fmt.Errorf("reading the answer: %w", noEOF(err))
		}
		return v.setClamd(strings.TrimSuffix(answer, "\x00"))
	})
	return v, err
}

// sendChunks sends the command and the message: chunks with their length in front,
// an empty one at the end.
func sendChunks(w io.Writer, r io.Reader) error {
	const head = "zINSTREAM\x00"
	buf := make([]byte, len(head)+4+clamdChunk)
	start := copy(buf, head)
	for {
		n, err := io.ReadFull(r, buf[start+4:])
		binary.BigEndian.PutUint32(buf[start:], uint32(n))
		if _, err := w.Write(buf[:start+4+n]); err != nil {
			return fmt.Errorf("sending the message: %w", err)
		}
		start = 0
		if n == 0 {
			return nil
		}
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return fmt.Errorf("reading the message: %w", err)
		}
	}
}

// setClamd understands "stream: OK", "stream: NAME FOUND" and "REASON ERROR".
func (v *Verdict) setClamd(answer string) error {
	rest, ok := strings.CutPrefix(answer, "stream: ")
	name, found := strings.CutSuffix(rest, " FOUND")
	switch {
	case ok && rest == "OK":
		return nil
	case ok && found && name != "":
		v.Bad, v.Action, v.Name = true, Reject, line(name, maxDetailLen)
		v.detail(name)
		return nil
	case strings.Contains(answer, "size limit exceeded"):
		return fmt.Errorf("%w: %q", ErrTooLarge, line(answer, maxDetailLen))
	}
	return fmt.Errorf("unexpected answer %q", line(answer, maxDetailLen))
}

// noEOF makes an end of the connection an error that says so.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
