package proxy

import (
	"encoding/binary"
	"errors"
)

// clientHello is what routing needs of a TLS ClientHello (RFC 8446 section
// 4.1.2).
type clientHello struct {
	serverName string   // as sent, "" if there is none
	protocols  []string // ALPN, RFC 7301
	// encrypted says that there is another hello in this one (RFC 9849 section
	// 5), or what looks like it, encrypted with the key that echConfig names.
	encrypted bool
	echConfig byte
}

var errNotTLS = errors.New("not a TLS client hello")

// maxHello bounds a ClientHello; crypto/tls has the same limit for handshake
// messages of clients.
const maxHello = 64 << 10

const (
	recordHeaderLen     = 5
	recordTypeHandshake = 22
	typeClientHello     = 1
	maxRecord           = 16384
)

// helloReader puts a ClientHello together from TLS records, in which it may be
// cut anywhere: hellos with post-quantum keys do not fit into one packet, and
// some clients split records on purpose. It looks at every byte once, however
// they arrive.
type helloReader struct {
	next    int    // where in the input the next record begins
	message []byte // handshake bytes so far
}

// read looks at all input so far and reports whether the hello is complete.
func (h *helloReader) read(input []byte) (done bool, err error) {
	for len(input)-h.next >= recordHeaderLen {
		header := input[h.next:]
		length := int(binary.BigEndian.Uint16(header[3:]))
		if header[0] != recordTypeHandshake || header[1] != 3 || length == 0 || length > maxRecord {
			return false, errNotTLS
		}
		if len(header) < recordHeaderLen+length {
			return false, nil
		}
		h.message = append(h.message, header[recordHeaderLen:recordHeaderLen+length]...)
		h.next += recordHeaderLen + length
		if h.message[0] != typeClientHello {
			return false, errNotTLS
		}
		if len(h.message) < 4 {
			continue
		}
		size := int(h.message[1])<<16 | int(h.message[2])<<8 | int(h.message[3])
		if size > maxHello {
			return false, errNotTLS
		}
		if len(h.message) >= 4+size {
			h.message = h.message[:4+size]
			return true, nil
		}
	}
	// The first bytes tell soon enough, even where no whole record is there.
	if first := input[min(h.next, len(input)):]; len(first) >= 2 && (first[0] != recordTypeHandshake || first[1] != 3) {
		return false, errNotTLS
	}
	return false, nil
}

// parse reads the complete message.
func (h *helloReader) parse() (*clientHello, error) {
	r := reader(h.message[4:])
	hello := new(clientHello)
	if !r.skip(2+32) || !r.skipVector(1) || !r.skipVector(2) || !r.skipVector(1) {
		return nil, errNotTLS
	}
	if len(r) == 0 {
		return hello, nil // TLS 1.2 allows a hello without extensions
	}
	extensions, ok := r.vector(2)
	if !ok || len(r) != 0 {
		return nil, errNotTLS
	}
	var seenName, seenALPN bool
	for len(extensions) > 0 {
		kind, ok := extensions.uint(2)
		body, ok2 := extensions.vector(2)
		if !ok || !ok2 {
			return nil, errNotTLS
		}
		switch {
		case kind == 0 && seenName, kind == 16 && seenALPN:
			return nil, errNotTLS
		case kind == 0:
			seenName = true
			if hello.serverName, ok = serverName(body); !ok {
				return nil, errNotTLS
			}
		case kind == 16:
			seenALPN = true
			if hello.protocols, ok = protocols(body); !ok {
				return nil, errNotTLS
			}
		case kind == 0xfe0d && len(body) > 5 && body[0] == 0: // after two bytes each of KDF and AEAD
			hello.encrypted, hello.echConfig = true, body[5]
		}
	}
	return hello, nil
}

// serverName reads the server_name extension, RFC 6066 section 3.
func serverName(body reader) (string, bool) {
	names, ok := body.vector(2)
	if !ok || len(body) != 0 || len(names) == 0 {
		return "", false
	}
	host := ""
	for len(names) > 0 {
		kind, ok := names.uint(1)
		name, ok2 := names.vector(2)
		if !ok || !ok2 || len(name) == 0 {
			return "", false
		}
		if kind != 0 {
			continue
		}
		if host != "" {
			return "", false // one name of each type
		}
		host = string(name)
	}
	return host, true
}

// protocols reads the ALPN extension.
func protocols(body reader) ([]string, bool) {
	list, ok := body.vector(2)
	if !ok || len(body) != 0 || len(list) == 0 {
		return nil, false
	}
	var names []string
	for len(list) > 0 {
		name, ok := list.vector(1)
		if !ok || len(name) == 0 {
			return nil, false
		}
		names = append(names, string(name))
	}
	return names, true
}

// reader consumes the structures of TLS, RFC 8446 section 3.
type reader []byte

func (r *reader) skip(n int) bool {
	if len(*r) < n {
		return false
	}
	*r = (*r)[n:]
	return true
}

func (r *reader) uint(size int) (int, bool) {
	if len(*r) < size {
		return 0, false
	}
	n := 0
	for _, b := range (*r)[:size] {
		n = n<<8 | int(b)
	}
	*r = (*r)[size:]
	return n, true
}

// vector takes a vector whose length is written in size bytes.
func (r *reader) vector(size int) (reader, bool) {
	n, ok := r.uint(size)
	if !ok || len(*r) < n {
		return nil, false
	}
	v := (*r)[:n:n]
	*r = (*r)[n:]
	return v, true
}

func (r *reader) skipVector(size int) bool {
	_, ok := r.vector(size)
	return ok
}
