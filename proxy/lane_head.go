package proxy

import (
	"net/http"
	"strconv"
	"time"

	"github.com/dcrouter/dcrouter/proxy/internal/h1"
)

// appendRequest writes the head of the request to the target.
func (l *fastLane) appendRequest(b []byte) []byte {
	x, req := &l.exchange, &l.req
	b = appendRequestLine(b, req.Method, req.Target, x.outgoingHost())
	l.fields = x.outgoing(req.Fields, l.fields[:0])
	for _, f := range l.fields {
		if f.Name != "User-Agent" || f.Value != "" {
			b = h1.AppendField(b, f.Name, f.Value)
		}
	}
	b = appendFraming(b, req.Method, req.ContentLength)
	return append(b, "\r\n"...)
}

// appendResponse writes the head of the response to the client, with its
// fields in the order in which net/http writes them.
func (l *fastLane) appendResponse(b []byte, hasBody, close, early bool) []byte {
	x, resp := &l.exchange, &l.resp
	fields := incoming(resp.Fields, l.fields[:0])
	if resp.ContentLength >= 0 && resp.Status != http.StatusNoContent && resp.Status != http.StatusNotModified {
		fields = fields.Add("Content-Length", strconv.FormatInt(resp.ContentLength, 10))
	}
	if hasBody && resp.ContentLength == h1.Chunked {
		if names := trailerNames(resp.Fields); names != "" {
			fields = fields.Add("Trailer", names)
		}
	}
	if x.conn.altSvc != "" {
		fields = fields.Set("Alt-Svc", x.conn.altSvc)
	}
	if x.id != "" {
		fields = fields.Set(x.run.p.requestIDHeader, x.id)
	}
	fields = x.route.responseEdits.applyTo(fields, x)
	if early {
		fields = fields.Set("Connection", "close")
	}
	fields.Sort()
	l.fields = fields

	b = l.run.appendStatus(b, resp.Status)
	b = fields.Append(b)
	if !fields.Has("Date") {
		b = h1.AppendField(b, "Date", l.run.date())
	}
	if close && !early {
		b = h1.AppendField(b, "Connection", "close")
	}
	if hasBody && resp.ContentLength < 0 {
		b = h1.AppendField(b, "Transfer-Encoding", "chunked")
	}
	return append(b, "\r\n"...)
}

// appendStatus writes a status line. The reason is the standard one, not the
// target's: HTTP/2 has none, and net/http lets nobody choose it.
func (r *run) appendStatus(b []byte, status int) []byte {
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(status), 10)
	b = append(b, ' ')
	if text := http.StatusText(status); text != "" {
		b = append(b, text...)
	} else {
		b = append(b, "status code "...)
		b = strconv.AppendInt(b, int64(status), 10)
	}
	return append(b, "\r\n"...)
}

func appendLength(b []byte, n int) []byte {
	b = append(b, "Content-Length: "...)
	b = strconv.AppendInt(b, int64(n), 10)
	return append(b, "\r\n"...)
}

// dateText is the Date of responses during one second.
type dateText struct {
	second int64
	text   string
}

// date returns the time as RFC 9110 section 5.6.7 wants it.
func (r *run) date() string {
	now := time.Now()
	d := r.lastDate.Load()
	if d == nil || d.second != now.Unix() {
		d = &dateText{now.Unix(), now.UTC().Format(http.TimeFormat)}
		r.lastDate.Store(d)
	}
	return d.text
}
