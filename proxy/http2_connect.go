package proxy

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"

	"golang.org/x/net/http2/hpack"
)

// connectMarker is the field that stands for protocolField in a request that
// extendedConnect has rewritten. A value counts only behind the connection's
// secret.
const connectMarker = "Dcrouter-Connect-Protocol"

// extendedConnect stands between a client that speaks HTTP/2 and net/http, which
// knows extended CONNECT (RFC 8441) only if the environment of the process says
// GODEBUG=http2xconnect=1. It announces that extension in the server's settings
// and makes a GET with a marker of each CONNECT that uses it. All else passes as
// it is. How a header block is compressed depends on all that came before, so
// from the first such CONNECT on every block is written anew; until then they
// are only followed.
type extendedConnect struct {
	net.Conn // the connection, or the TLS on top of it
	conn     *conn

	// From the client to net/http.
	in        *bufio.Reader
	greeted   bool
	err       error  // that reading has ended with
	out       []byte // what net/http gets next
	buffer    []byte // where that is made
	pass      int    // bytes of in that it gets after it, as they are
	block     []byte // a header block of several frames
	fields    []hpack.HeaderField
	size      uint32 // of the fields
	maxSize   uint32
	dec       *hpack.Decoder
	huffman   []byte // how protocolField is compressed
	watching  bool   // the client has said protocolField
	rewriting bool
	enc       *hpack.Encoder
	encoded   bytes.Buffer

	announced bool
}

func newExtendedConnect(stream net.Conn, c *conn, maxHeaderBytes int) *extendedConnect {
	c.connectSecret = rand.Text()
	e := &extendedConnect{Conn: stream, conn: c, in: bufio.NewReader(stream)}
	e.maxSize = uint32(maxHeaderBytes) + 10*32          // as net/http reckons
	e.dec = hpack.NewDecoder(compressionTable, e.field) // net/http leaves it at that
	e.dec.SetMaxStringLength(int(e.maxSize))
	e.huffman = hpack.AppendHuffmanString(nil, protocolField)
	return e
}

// protocolOf returns what a request asks a stream to be used for with an
// extended CONNECT, or "".
func protocolOf(req *http.Request, c *conn) string {
	if protocol := req.Header[protocolField]; len(protocol) > 0 {
		return protocol[0]
	}
	if c.connectSecret == "" {
		return ""
	}
	for _, mark := range req.Header[connectMarker] {
		if protocol, ok := strings.CutPrefix(mark, c.connectSecret); ok {
			delete(req.Header, connectMarker)
			return protocol
		}
	}
	return ""
}

const (
	frameHeaders      = 1
	frameSettings     = 4
	frameContinuation = 9

	flagEndStream  = 1
	flagEndHeaders = 4
	flagPadded     = 8
	flagPriority   = 32

	maxFrame         = 16 << 10
	maxContinuations = 32
	compressionTable = 4096 // RFC 9113 section 6.5.2

	settingConnectProtocol = 8 // RFC 8441 section 3
)

// frameHead is the head of a frame, RFC 9113 section 4.1.
type frameHead [9]byte

func (h *frameHead) length() int { return int(h[0])<<16 | int(h[1])<<8 | int(h[2]) }

func (h *frameHead) setLength(n int) { h[0], h[1], h[2] = byte(n>>16), byte(n>>8), byte(n) }

// parts takes the payload of a HEADERS frame apart.
func (h *frameHead) parts(b []byte) (priority, block []byte, ok bool) {
	padding := 0
	if h[4]&flagPadded != 0 {
		if len(b) < 1 {
			return nil, nil, false
		}
		padding, b = int(b[0]), b[1:]
	}
	if h[4]&flagPriority != 0 {
		if len(b) < 5 {
			return nil, nil, false
		}
		priority, b = b[:5:5], b[5:]
	}
	if padding > len(b) {
		return nil, nil, false
	}
	return priority, b[:len(b)-padding], true
}

// Write sends what net/http says. The first thing it says is its settings.
func (e *extendedConnect) Write(b []byte) (int, error) {
	if e.announced {
		return e.Conn.Write(b)
	}
	e.announced = true
	if len(b) < 9 || b[3] != frameSettings {
		return e.Conn.Write(b)
	}
	head := frameHead(b)
	end := 9 + head.length()
	if len(b) < end {
		return e.Conn.Write(b)
	}
	for i := 9; i+6 <= end; i += 6 {
		if binary.BigEndian.Uint16(b[i:]) == settingConnectProtocol {
			return e.Conn.Write(b) // GODEBUG says so
		}
	}
	head.setLength(head.length() + 6)
	more := slices.Concat(head[:], b[9:end], []byte{0, settingConnectProtocol, 0, 0, 0, 1}, b[end:])
	if _, err := e.Conn.Write(more); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Read reads what the client says, with its header blocks rewritten.
func (e *extendedConnect) Read(p []byte) (int, error) {
	for len(e.out) == 0 && e.pass == 0 {
		if e.err != nil {
			return 0, e.err
		}
		if e.buffer = e.buffer[:0]; cap(e.buffer) > 2*maxFrame {
			e.buffer, e.block = nil, nil
		}
		if e.err = e.next(); e.err != nil {
			return 0, e.err
		}
		e.out = e.buffer
	}
	if len(e.out) > 0 {
		n := copy(p, e.out)
		e.out = e.out[n:]
		return n, nil
	}
	n, err := e.in.Read(p[:min(len(p), e.pass)])
	e.pass -= n
	return n, err
}

var errBlockWaste = errors.New("a header block of too many frames, or far longer than its fields may be")

// next puts the next frame into the buffer, or its head there and the rest up to
// be passed on.
func (e *extendedConnect) next() error {
	if !e.greeted {
		preface := make([]byte, len(http2Preface))
		if _, err := io.ReadFull(e.in, preface); err != nil {
			return err
		}
		if string(preface) != http2Preface {
			return io.EOF // anything else net/http would answer in HTTP/1.1
		}
		e.greeted, e.buffer = true, preface
		return nil
	}
	var head frameHead
	if _, err := io.ReadFull(e.in, head[:]); err != nil {
		return err
	}
	if head[3] != frameHeaders || head.length() > maxFrame {
		e.buffer, e.pass = append(e.buffer, head[:]...), head.length()
		return nil
	}
	return e.headers(head)
}

// headers reads a header block, which begins with a frame of this head, and
// rewrites it if need be. What breaks the rules net/http gets to see in a form
// that breaks the same ones.
func (e *extendedConnect) headers(head frameHead) error {
	e.buffer = append(e.buffer, head[:]...)
	payload, err := e.read(&e.buffer, head.length())
	if err != nil {
		return err
	}
	priority, block, ok := head.parts(payload)
	if !ok {
		return nil
	}
	if head[4]&flagEndHeaders == 0 {
		e.block = append(e.block[:0], block...)
		if ok, err = e.continuation(head); !ok {
			return err
		}
		block = e.block
	}
	if e.rewriting {
		ok = e.decode(block)
	} else if !e.begin(block) {
		return nil
	}
	e.encoded.Reset()
	if ok {
		e.encode()
	} else {
		e.encoded.WriteByte(0x80) // index 0 is an error in compression, too
	}
	e.buffer = e.buffer[:0]
	e.frame(head, priority)
	return nil
}

// read appends n bytes from the client to b, and returns them.
func (e *extendedConnect) read(b *[]byte, n int) ([]byte, error) {
	at := len(*b)
	*b = slices.Grow(*b, n)[:at+n]
	_, err := io.ReadFull(e.in, (*b)[at:])
	return (*b)[at:], err
}

// continuation reads the rest of a header block that takes several frames. It
// reports false if there is none, and what there is instead goes to net/http.
func (e *extendedConnect) continuation(head frameHead) (bool, error) {
	for n := 0; ; n++ {
		var more frameHead
		if _, err := io.ReadFull(e.in, more[:]); err != nil {
			return false, err
		}
		if more[3] != frameContinuation || string(more[5:]) != string(head[5:]) || more.length() > maxFrame {
			if e.rewriting { // what is in the block means nothing to net/http
				head.setLength(0)
				head[4] &= flagEndStream
				e.buffer = append(e.buffer[:0], head[:]...)
			}
			e.buffer, e.pass = append(e.buffer, more[:]...), more.length()
			return false, nil
		}
		// net/http bounds the fields, but would take empty frames without end.
		if n == maxContinuations || len(e.block)+more.length() > 4*int(e.maxSize) {
			return false, errBlockWaste
		}
		part, err := e.read(&e.block, more.length())
		if err != nil {
			return false, err
		}
		e.buffer = append(append(e.buffer, more[:]...), part...)
		if more[4]&flagEndHeaders != 0 {
			return true, nil
		}
	}
}

// begin reads a block and reports whether to begin rewriting with it. Nobody can
// ask for a protocol without spelling protocolField out once.
func (e *extendedConnect) begin(block []byte) bool {
	e.watching = e.watching || bytes.Contains(block, []byte(protocolField)) || bytes.Contains(block, e.huffman)
	if !e.watching {
		e.dec.SetEmitEnabled(false)
		if _, err := e.dec.Write(block); err == nil {
			e.dec.Close()
		}
		return false // net/http will find the same errors
	}
	if !e.decode(block) || e.asksFor() == "" {
		return false
	}
	// What the client has had net/http remember is not referred to any more. As
	// it is the oldest in its table, it does not get in the way either.
	e.rewriting, e.enc = true, hpack.NewEncoder(&e.encoded)
	return true
}

// decode undoes the compression of a header block.
func (e *extendedConnect) decode(block []byte) bool {
	e.fields, e.size = e.fields[:0], 0
	e.dec.SetEmitEnabled(true)
	if _, err := e.dec.Write(block); err != nil {
		return false
	}
	return e.dec.Close() == nil
}

// field takes one field of a header block. The one that exceeds the limit is
// the last that net/http needs to see.
func (e *extendedConnect) field(f hpack.HeaderField) {
	e.fields = append(e.fields, f)
	if e.size += f.Size(); e.size > e.maxSize {
		e.dec.SetEmitEnabled(false)
	}
}

// encode compresses the fields for net/http.
func (e *extendedConnect) encode() {
	protocol := e.asksFor()
	for _, f := range e.fields {
		switch {
		case protocol != "" && f.Name == ":method":
			f.Value = http.MethodGet
		case protocol != "" && f.Name == protocolField:
			continue
		}
		e.enc.WriteField(f)
	}
	if protocol != "" {
		e.enc.WriteField(hpack.HeaderField{Name: strings.ToLower(connectMarker), Value: e.conn.connectSecret + protocol, Sensitive: true})
	}
}

// asksFor returns the protocol if the fields are those of an extended CONNECT
// as it should be. Others are left to net/http, which refuses them.
func (e *extendedConnect) asksFor() (protocol string) {
	connect, pseudo := false, true
	for _, f := range e.fields {
		switch {
		case !strings.HasPrefix(f.Name, ":"):
			pseudo = false
		case !pseudo:
			return ""
		case f.Name == ":method":
			connect = f.Value == http.MethodConnect
		case f.Name == protocolField:
			if protocol != "" {
				return ""
			}
			protocol = f.Value
		}
	}
	if !connect {
		return ""
	}
	return protocol
}

// frame puts the encoded block into frames.
func (e *extendedConnect) frame(head frameHead, priority []byte) {
	flags := head[4] & (flagEndStream | flagPriority)
	rest := e.encoded.Bytes()
	for first := true; first || len(rest) > 0; first = false {
		if !first {
			head[3], flags, priority = frameContinuation, 0, nil
		}
		n := min(len(rest), maxFrame-len(priority))
		if n == len(rest) {
			flags |= flagEndHeaders
		}
		head.setLength(len(priority) + n)
		head[4] = flags
		e.buffer = append(append(append(e.buffer, head[:]...), priority...), rest[:n]...)
		rest = rest[n:]
	}
}
