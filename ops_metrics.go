package dcrouter

import (
	"bytes"
	"maps"
	"net/http"
	"sync"
	"time"
)

// metricsAge is for how long metrics are given out again: so however many scrape,
// and however often, metrics are collected five times a second.
const metricsAge = 200 * time.Millisecond

// maxMetricsForms bounds how many forms of the metrics are kept.
const maxMetricsForms = 8

// metricsHandler gives out what next answered, for a short time.
type metricsHandler struct {
	next http.Handler

	mu    sync.Mutex // held while next collects: others wait for what it brings
	forms map[metricsForm]*metricsAnswer
}

// metricsForm is what an answer depends on.
type metricsForm struct{ accept, encoding string }

// metricsAnswer is an answer, as it is written and read again.
type metricsAnswer struct {
	made   time.Time
	status int
	header http.Header
	body   bytes.Buffer
}

func (a *metricsAnswer) Header() http.Header         { return a.header }
func (a *metricsAnswer) Write(p []byte) (int, error) { return a.body.Write(p) }
func (a *metricsAnswer) WriteHeader(status int)      { a.status = status }

// ServeHTTP answers with metrics that are at most metricsAge old.
func (h *metricsHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a := h.answer(r)
	maps.Copy(w.Header(), a.header)
	w.WriteHeader(a.status)
	w.Write(a.body.Bytes()) // whoever went away does not read it
}

func (h *metricsHandler) answer(r *http.Request) *metricsAnswer {
	form := metricsForm{r.Header.Get("Accept"), r.Header.Get("Accept-Encoding")}
	h.mu.Lock()
	defer h.mu.Unlock()
	if a := h.forms[form]; a != nil && time.Since(a.made) < metricsAge {
		return a
	}
	if h.forms == nil || len(h.forms) >= maxMetricsForms {
		h.forms = map[metricsForm]*metricsAnswer{}
	}
	a := &metricsAnswer{status: http.StatusOK, header: http.Header{}}
	h.next.ServeHTTP(a, r)
	a.made = time.Now()
	h.forms[form] = a
	return a
}
