package proxy

// RequestID gives each HTTP request an id: 128 random bits as 32 hexadecimal
// digits. That of a trusted proxy (see [Config.TrustedProxies]) is kept, if it
// has at most 128 characters and only such as need no quoting anywhere; one
// that anyone else sends is replaced. The id goes to the target or handler, into
// the response, the access log and [ConnInfo].
type RequestID struct {
	// Header carries the id, in requests and responses. Default X-Request-Id.
	Header string `json:"header"`
}

// AccessLog writes a record of each HTTP request, also of those that were
// refused, and of each TCP stream, when it has ended. Records are written at
// level info, "request" or "stream", to the logger of [WithAccessLog] or else
// the Proxy's. The host's handler decides on the form; [slog.JSONHandler] is
// usual. A request has these attributes, as far as they are known:
//
//	conn_id, request_id   as in other log lines and in ConnInfo
//	client, port          its address; the port as the routes name it
//	route, target         names as in Stats; target is the last one tried
//	method, scheme, host, path, query, protocol, status
//	duration, first_byte  in all, and until the target answered; nanoseconds in JSON
//	bytes_in, bytes_out   contents from and to the client
//	server_name, tls, alpn
//	user_agent, referer, headers
//	refused               the reason, as Stats counts it
//	error                 why no target answered
//	aborted               true if it ended before its response did
//	not_logged            failures left out since the last one beside the sample
//
// A status of 0 means that no response was sent. What clients send is cut off
// where it is too long.
type AccessLog struct {
	// Enabled set to false turns the log off. The default nil means true where
	// the section is present.
	Enabled *bool `json:"enabled"`
	// Sample is the share of requests and streams to record, chosen at random:
	// 0.01 is every hundredth. The default 0 means 1, all of them.
	Sample float64 `json:"sample"`
	// Errors records also beside the sample what was refused, failed or was
	// answered with 500 or more, up to 100 a second. The default nil means true.
	Errors *bool `json:"errors"`
	// Query adds the query, in which secrets may be.
	Query bool `json:"query"`
	// Referer adds the page that a request came from, without its query unless
	// Query is set.
	Referer bool `json:"referer"`
	// Headers are names of request headers to add. Those for credentials and
	// cookies cannot be.
	Headers []string `json:"headers"`
}

// Compression compresses responses (RFC 9110 section 8.4), if the client accepts
// it and nothing speaks against it: parts of a resource, what is encoded already,
// Cache-Control: no-transform and gRPC stay as they are. What a handler or target
// flushes reaches the client at once.
//
// It is off unless asked for. Where a response holds a secret together with
// something that an attacker chooses, its compressed size tells him about the
// secret (the BREACH attack): leave such routes without compression.
//
// The compressors in use in a Proxy take 160 MiB of memory at most, which is more
// than a hundred at the default level; a response too many goes out as it is.
type Compression struct {
	// Algorithms are what to offer, the one to prefer first: [Zstd] (RFC 8878)
	// and [Gzip] (RFC 1952). Empty means both, in that order.
	Algorithms []string `json:"algorithms"`
	// Types are media types to compress, as globs. Empty means text/*, JSON,
	// JavaScript, XML, SVG and WebAssembly. Event streams are compressed only if
	// text/event-stream is among them just so, as each takes a compressor for as
	// long as it lasts.
	Types []string `json:"types"`
	// MinSize is the length in bytes that is worth it, at most 1 MiB. A response
	// of unknown length is kept back until it is reached, unless it is flushed.
	// The default 0 means 1024.
	MinSize int `json:"minSize"`
	// Level is from 1, the fastest, to 9, the smallest. The default 0 means 3.
	Level int `json:"level"`
}
