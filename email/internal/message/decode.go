package message

import (
	"bytes"
	"io"
	"strings"
)

// encoding is a content transfer encoding (RFC 2045 section 6).
type encoding int

const (
	identity encoding = iota
	base64
	quotedPrintable
	uuencode
)

func (e encoding) String() string {
	switch e {
	case base64:
		return "base64"
	case quotedPrintable:
		return "quoted-printable"
	case uuencode:
		return "uuencode"
	}
	return ""
}

func parseEncoding(s string) encoding {
	s, _, _ = strings.Cut(s, ";") // some mailers add parameters
	s, _, _ = strings.Cut(s, "(")
	switch strings.ToLower(strings.Trim(s, " \t\"")) {
	case "base64":
		return base64
	case "quoted-printable":
		return quotedPrintable
	case "uuencode", "x-uuencode", "x-uue", "uue":
		return uuencode
	}
	return identity
}

func (e encoding) decoder() decoder {
	switch e {
	case base64:
		return &base64Decoder{}
	case quotedPrintable:
		return &qpDecoder{}
	default:
		return &uuDecoder{}
	}
}

// A decoder turns encoded bytes into decoded ones, never more than it was given
// so far.
type decoder interface {
	// decode appends what src adds.
	decode(dst, src []byte) []byte
	// finish appends what is left at the end.
	finish(dst []byte) []byte
	// clone is a decoder in the same state.
	clone() decoder
}

// base64Decoder passes over what is not of the alphabet (RFC 2045 section 6.8).
// Padding ends a group but not the data: some mailers join several encoded
// pieces, and what one client decodes must not be hidden from us.
type base64Decoder struct {
	bits uint32
	n    int // characters in bits
}

func (d *base64Decoder) decode(dst, src []byte) []byte {
	for _, b := range src {
		var v uint32
		switch {
		case 'A' <= b && b <= 'Z':
			v = uint32(b - 'A')
		case 'a' <= b && b <= 'z':
			v = uint32(b-'a') + 26
		case '0' <= b && b <= '9':
			v = uint32(b-'0') + 52
		case b == '+':
			v = 62
		case b == '/':
			v = 63
		case b == '=':
			dst = d.finish(dst)
			continue
		default:
			continue
		}
		d.bits = d.bits<<6 | v
		if d.n++; d.n == 4 {
			dst = append(dst, byte(d.bits>>16), byte(d.bits>>8), byte(d.bits))
			d.bits, d.n = 0, 0
		}
	}
	return dst
}

func (d *base64Decoder) finish(dst []byte) []byte {
	switch d.n {
	case 2:
		dst = append(dst, byte(d.bits>>4))
	case 3:
		dst = append(dst, byte(d.bits>>10), byte(d.bits>>2))
	}
	d.bits, d.n = 0, 0
	return dst
}

func (d *base64Decoder) clone() decoder { c := *d; return &c }

// qpDecoder leaves what is no code as it is (RFC 2045 section 6.7). White space
// at the end of a line stays too: it means nothing to those who look here.
type qpDecoder struct {
	state  qpState
	first  byte // the digit after '='
	spaces int  // characters of white space after '='
}

// maxLine bounds a line (RFC 5322 section 2.1.1).
const maxLine = 998

type qpState int

const (
	qpText  qpState = iota
	qpEqual         // after '='
	qpDigit         // after '=' and a digit
	qpSpace         // after '=' and white space, which is a soft break if the line ends
)

func (d *qpDecoder) decode(dst, src []byte) []byte {
	for len(src) > 0 {
		if d.state == qpText {
			i := bytes.IndexByte(src, '=')
			if i < 0 {
				return append(dst, src...)
			}
			dst = append(dst, src[:i]...)
			src = src[i+1:]
			d.state = qpEqual
			continue
		}
		b := src[0]
		switch {
		case b == '\n' && d.state != qpDigit:
			d.state, d.spaces = qpText, 0
		case (b == ' ' || b == '\t' || b == '\r') && d.state != qpDigit:
			d.state = qpSpace
			d.spaces = min(d.spaces+1, maxLine)
		case isHex(b) && d.state == qpEqual:
			d.first, d.state = b, qpDigit
		case isHex(b) && d.state == qpDigit:
			dst = append(dst, unhex(d.first)<<4|unhex(b))
			d.state = qpText
		default:
			dst = d.finish(dst)
			continue // with b as text
		}
		src = src[1:]
	}
	return dst
}

func (d *qpDecoder) finish(dst []byte) []byte {
	switch d.state {
	case qpEqual, qpSpace:
		dst = append(dst, '=')
		for range d.spaces {
			dst = append(dst, ' ')
		}
	case qpDigit:
		dst = append(dst, '=', d.first)
	}
	d.state, d.spaces = qpText, 0
	return dst
}

func (d *qpDecoder) clone() decoder { c := *d; return &c }

func isHex(b byte) bool {
	return '0' <= b && b <= '9' || 'a' <= b && b <= 'f' || 'A' <= b && b <= 'F'
}

func unhex(b byte) byte {
	switch {
	case b <= '9':
		return b - '0'
	case b <= 'F':
		return b - 'A' + 10
	}
	return b - 'a' + 10
}

// uuDecoder decodes what is between the lines "begin" and "end".
type uuDecoder struct {
	line   []byte
	inside bool
}

const maxUULine = 128 // 61 are needed; the rest of a longer line is no data

func (d *uuDecoder) decode(dst, src []byte) []byte {
	for len(src) > 0 {
		i := bytes.IndexByte(src, '\n')
		piece := src
		if i >= 0 {
			piece = src[:i]
		}
		d.line = append(d.line, piece[:min(len(piece), maxUULine-len(d.line))]...)
		if i < 0 {
			break
		}
		src = src[i+1:]
		dst = d.finish(dst)
	}
	return dst
}

func (d *uuDecoder) finish(dst []byte) []byte {
	line := bytes.TrimRight(d.line, "\r")
	d.line = d.line[:0]
	if !d.inside {
		d.inside = bytes.HasPrefix(line, []byte("begin "))
		return dst
	}
	if string(line) == "end" {
		d.inside = false
		return dst
	}
	if len(line) == 0 {
		return dst
	}
	n := int(line[0]-' ') & 63
	line = line[1:]
	for n > 0 && len(line) > 0 {
		var v uint32
		for i := range 4 {
			v <<= 6
			if i < len(line) {
				v |= uint32(line[i]-' ') & 63
			}
		}
		group := []byte{byte(v >> 16), byte(v >> 8), byte(v)}
		dst = append(dst, group[:min(n, 3)]...)
		n -= 3
		line = line[min(4, len(line)):]
	}
	return dst
}

func (d *uuDecoder) clone() decoder {
	return &uuDecoder{line: bytes.Clone(d.line), inside: d.inside}
}

const decodeBuffer = 16 << 10

// decodeReader reads src decoded.
type decodeReader struct {
	src  io.Reader
	dec  decoder
	in   []byte
	out  []byte // decoded and not yet read
	buf  []byte // out's memory
	read int64  // bytes taken from src
	end  bool
}

func newDecodeReader(src io.Reader, dec decoder) *decodeReader {
	// A decoder may hold back a line of uuencode, and gives it with the next.
	return &decodeReader{src: src, dec: dec, in: make([]byte, decodeBuffer), buf: make([]byte, 0, decodeBuffer+2*maxUULine)}
}

// fill decodes the next piece of src into out, which may be nothing.
func (r *decodeReader) fill() error {
	if r.end {
		return io.EOF
	}
	n, err := r.src.Read(r.in)
	r.read += int64(n)
	r.out = r.dec.decode(r.buf[:0], r.in[:n])
	if err == io.EOF {
		r.out = r.dec.finish(r.out)
		r.end = true
		return nil
	}
	return err
}

func (r *decodeReader) Read(p []byte) (int, error) {
	for len(r.out) == 0 {
		if err := r.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.out)
	r.out = r.out[n:]
	return n, nil
}
