package h1

import "strings"

// Response is the head of a response.
type Response struct {
	Status int
	Reason string
	Fields Fields // without Content-Length and Transfer-Encoding
	// ContentLength is the length of the body, [Chunked] or [UntilClose]. It is
	// what the head says also where there is no body: see [Response.HasBody].
	ContentLength int64
	// Close says that the server will close the connection.
	Close bool
}

// UntilClose as a length stands for a body that ends with the connection.
const UntilClose = -2

// HasBody reports whether a response to a method has a body, RFC 9112 section
// 6.3.
func (resp *Response) HasBody(method string) bool {
	return method != "HEAD" && resp.Status >= 200 && resp.Status != 204 && resp.Status != 304
}

// ParseResponse reads a whole head, its empty line included. It reuses what
// resp holds; what it puts there are parts of head. It bears with lines that
// end in a bare LF, which cannot mislead anybody: what is sent on is written
// anew.
func ParseResponse(head string, resp *Response) error {
	*resp = Response{Fields: resp.Fields[:0]}
	line, rest, _ := cutLine(head, true)
	version, status, ok := strings.Cut(line, " ")
	if !ok || version != "HTTP/1.1" && version != "HTTP/1.0" {
		return malformed("not a status line of HTTP/1")
	}
	status, resp.Reason, _ = strings.Cut(status, " ")
	code, ok := parseLength(status)
	if !ok || len(status) != 3 || code < 100 {
		return malformed("not a status code")
	}
	resp.Status = int(code)
	var err error
	if resp.Fields, err = parseFields(resp.Fields, rest, true); err != nil {
		return err
	}
	return resp.frame(version == "HTTP/1.0")
}

// frame takes what the head says about the message itself out of its fields.
func (resp *Response) frame(old bool) error {
	length := int64(UntilClose)
	chunked, keepAlive := false, !old
	kept := resp.Fields[:0]
	for _, f := range resp.Fields {
		switch f.Name {
		case "Content-Length":
			n, ok := parseLength(f.Value)
			if !ok || length >= 0 && n != length {
				return malformed("Content-Length is not a number, or several")
			}
			length = n
			continue
		case "Transfer-Encoding":
			// Another coding could not be undone; HTTP/1.0 has none at all.
			if chunked || old || !strings.EqualFold(f.Value, "chunked") {
				return malformed("Transfer-Encoding is not chunked")
			}
			chunked = true
			continue
		case "Connection":
			if HasToken(f.Value, "close") {
				resp.Close = true
			} else if HasToken(f.Value, "keep-alive") {
				keepAlive = true
			}
		}
		kept = append(kept, f)
	}
	resp.Fields = kept
	if chunked {
		// RFC 9112 section 6.3: chunked counts, and something is wrong.
		resp.Close = resp.Close || length >= 0
		length = Chunked
	}
	resp.ContentLength = length
	resp.Close = resp.Close || !keepAlive
	return nil
}
