package h1

import "strings"

// Request is the head of a request.
type Request struct {
	Method string
	Target string // in origin form
	Host   string // as sent
	Fields Fields // without Host, Content-Length and Transfer-Encoding
	// ContentLength is the length of the body, or [Chunked].
	ContentLength int64
	// Close says that the client wants no more than this.
	Close bool
}

// Chunked as a length stands for a body that tells its end itself.
const Chunked = -1

// ParseRequest reads a whole head, its empty line included. It reuses what
// req holds; what it puts there are parts of head.
//
// ErrUnusual stands for heads that mean more than sending a request and getting
// an answer (RFC 9110 section 7.8, CONNECT, Expect), or that net/http knows
// better (HTTP/1.0, absolute targets, trailers).
func ParseRequest(head string, req *Request) error {
	*req = Request{Fields: req.Fields[:0]}
	line, rest, ok := cutLine(head, false)
	if !ok {
		return malformed("the request line does not end in CRLF")
	}
	var version string
	if req.Method, line, ok = strings.Cut(line, " "); ok {
		req.Target, version, ok = strings.Cut(line, " ")
	}
	if !ok || !isToken(req.Method) {
		return malformed("not a request line")
	}
	unusual := version != "HTTP/1.1" || req.Method == "CONNECT" || !isOriginForm(req.Target)
	var err error
	if req.Fields, err = parseFields(req.Fields, rest, false); err != nil {
		return err
	}
	odd, err := req.frame()
	if err != nil {
		return err
	}
	if req.ContentLength == Chunked && version != "HTTP/1.1" {
		return malformed("Transfer-Encoding before HTTP/1.1") // RFC 9112 section 6.1
	}
	if unusual || odd {
		return ErrUnusual
	}
	return nil
}

// frame takes what the head says about the message itself out of its fields.
func (req *Request) frame() (unusual bool, err error) {
	var hosts, lengths, codings int
	kept := req.Fields[:0]
	for _, f := range req.Fields {
		switch f.Name {
		case "Host":
			hosts++
			req.Host = f.Value
			continue
		case "Content-Length":
			lengths++
			n, ok := parseLength(f.Value)
			if !ok {
				return false, malformed("Content-Length is not a number")
			}
			req.ContentLength = n
			continue
		case "Transfer-Encoding":
			codings++
			unusual = unusual || !strings.EqualFold(f.Value, "chunked")
			continue
		case "Connection":
			req.Close = req.Close || HasToken(f.Value, "close")
		case "Upgrade", "Expect", "Trailer", "Http2-Settings":
			unusual = true
		}
		kept = append(kept, f)
	}
	req.Fields = kept
	switch {
	case hosts > 1:
		return false, malformed("more than one Host")
	case lengths > 1:
		return false, malformed("more than one Content-Length")
	case codings > 1:
		return false, malformed("more than one Transfer-Encoding")
	case lengths > 0 && codings > 0:
		// RFC 9112 section 6.1: it might be an attempt to smuggle a request.
		return false, malformed("both Content-Length and Transfer-Encoding")
	case hosts == 0:
		unusual = true // HTTP/1.0 may, HTTP/1.1 must not
	}
	if codings > 0 {
		req.ContentLength = Chunked
	}
	return unusual, nil
}

// isOriginForm reports whether a target is a path, RFC 9112 section 3.2.1, in
// which every byte is one that may stand there.
func isOriginForm(target string) bool {
	if target == "" || target[0] != '/' {
		return false
	}
	for i := range len(target) {
		if c := target[i]; c <= ' ' || c >= 0x7f || c == '#' {
			return false
		}
	}
	return true
}

// parseLength reads a Content-Length: digits alone, RFC 9110 section 8.6.
func parseLength(s string) (int64, bool) {
	if s == "" || len(s) > 18 {
		return 0, false
	}
	var n int64
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = n*10 + int64(s[i]-'0')
	}
	return n, true
}
