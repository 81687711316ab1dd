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
