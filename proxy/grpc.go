package proxy

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// grpcCall is what the proxy has to know of a call: a server ends one whose time
// has run out by breaking it off, and may be faster than its client. That is
// neither a fault of the target, nor an answer that no target gave, which a
// client may send again. The zero value is a request that is none, or one that
// has time without end.
type grpcCall struct {
	deadline time.Time
	web      bool // gRPC-Web, which has its trailer in the body
}

// newGRPCCall looks at a request that is about to be sent: its client's time
// began before, the target's begins after.
func newGRPCCall(h http.Header) grpcCall {
	if isGRPC(h) {
		if limit, ok := parseGRPCTimeout(h.Get("Grpc-Timeout")); ok {
			return grpcCall{time.Now().Add(limit), strings.HasPrefix(h.Get("Content-Type"), "application/grpc-web")}
		}
	}
	return grpcCall{}
}

// isGRPC knows gRPC and gRPC-Web, with any codec.
func isGRPC(h http.Header) bool {
	return strings.HasPrefix(h.Get("Content-Type"), "application/grpc")
}

// over reports whether the call's time has run out.
func (c grpcCall) over() bool {
	return !c.deadline.IsZero() && !time.Now().Before(c.deadline)
}

// errGRPCDeadline ends a call that the target broke off after its time.
var errGRPCDeadline = errors.New("the time of the gRPC call ran out")

// setGRPCDeadline writes it as gRPC does: DEADLINE_EXCEEDED is the one of its
// statuses that none of HTTP stands for.
func setGRPCDeadline(h http.Header) {
	h.Set("Grpc-Status", "4")
	h.Set("Grpc-Message", errGRPCDeadline.Error())
}

// answerGRPCDeadline answers a call that no target has answered.
func answerGRPCDeadline(w http.ResponseWriter, req *http.Request) {
	w.Header().Set("Content-Type", req.Header.Get("Content-Type"))
	setGRPCDeadline(w.Header())
	w.WriteHeader(http.StatusOK)
}

// end ends a response that was broken off, where it can: the end of a body whose
// length was said, or that has gRPC-Web's trailer in it, is missed.
func (c grpcCall) end(resp *http.Response) (ended bool) {
	if c.web || resp.ContentLength >= 0 {
		return false
	}
	if resp.Trailer == nil {
		resp.Trailer = make(http.Header)
	}
	setGRPCDeadline(resp.Trailer)
	return true
}

// parseGRPCTimeout parses what grpc-timeout holds: up to eight digits and a
// unit.
func parseGRPCTimeout(s string) (time.Duration, bool) {
	if len(s) < 2 || len(s) > 9 {
		return 0, false
	}
	units := [...]time.Duration{time.Hour, time.Minute, time.Second, time.Millisecond, time.Microsecond, time.Nanosecond}
	n, err := strconv.ParseUint(s[:len(s)-1], 10, 64)
	i := strings.IndexByte("HMSmun", s[len(s)-1])
	if err != nil || i < 0 {
		return 0, false
	}
	unit := units[i]
	const longest = 1000 * time.Hour // beyond it nobody waits
	return min(time.Duration(n), longest/unit) * unit, true
}
