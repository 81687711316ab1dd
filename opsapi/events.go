package opsapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/dcrouter/dcrouter/opsapi/internal/ring"
)

// Topics of events that the Server itself has.
const (
	topicStats         = "stats"
	topicHealth        = "health"
	topicLog           = "log"
	topicSecurity      = "security"
	topicConfiguration = "configuration"
	topicAudit         = "audit"
)

// How many events are held, by topic. Of stats and health only the last one
// says anything.
const (
	heldEvents  = 1024
	heldStates  = 1
	maxTopics   = 32
	maxEvent    = 16 << 10 // bytes of one that a host publishes
	statsPeriod = time.Second
)

// Severities of a [SecurityEvent].
const (
	SeverityInfo     = "info"
	SeverityWarning  = "warning"
	SeverityCritical = "critical"
)

// SecurityEvent is something that hints at an attack or abuse.
type SecurityEvent struct {
	// Seq counts the events, from 1. It is set by the Server.
	Seq uint64 `json:"seq"`
	// Time is now if it is zero.
	Time      time.Time  `json:"time"`
	Kind      string     `json:"kind"`
	Component string     `json:"component"`
	Severity  string     `json:"severity" doc:"info, warning or critical"`
	Address   netip.Addr `json:"address,omitzero" doc:"whom it comes from"`
	Subject   string     `json:"subject,omitempty" doc:"what or whom it is about"`
	Message   string     `json:"message"`
	// Correlation is the id of the connection, as in the log.
	Correlation string `json:"correlation,omitempty"`
}

// events are what happened last, by topic.
type events struct {
	security *ring.Ring[SecurityEvent]
	added    *ring.Ring[string] // topics of the host, as they come up

	mu     sync.Mutex
	topics map[string]*ring.Ring[json.RawMessage]
}

func newEvents() *events {
	e := &events{security: ring.New[SecurityEvent](heldEvents), added: ring.New[string](maxTopics), topics: map[string]*ring.Ring[json.RawMessage]{}}
	for topic, held := range map[string]int{topicStats: heldStates, topicHealth: heldStates, topicConfiguration: heldEvents, topicAudit: heldEvents} {
		e.topics[topic] = ring.New[json.RawMessage](held)
	}
	return e
}

// topic returns the events of a topic, nil if there are none by that name.
func (e *events) topic(name string) *ring.Ring[json.RawMessage] {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.topics[name]
}

// names returns all topics but log, security and audit.
func (e *events) names() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var list []string
	for name := range e.topics {
		if name != topicAudit {
			list = append(list, name)
		}
	}
	return list
}

func (e *events) publish(topic string, v any) error {
	data, err := marshal(v)
	if err != nil {
		return err
	}
	if len(data) > maxEvent && topic != topicStats && topic != topicHealth {
		return fmt.Errorf("opsapi: an event of %d bytes, %d are the most", len(data), maxEvent)
	}
	e.mu.Lock()
	r := e.topics[topic]
	if r == nil {
		if !validName(topic) || len(e.topics) >= maxTopics || topic == topicLog || topic == topicSecurity {
			e.mu.Unlock()
			return fmt.Errorf("opsapi: %q cannot be a topic", topic)
		}
		r = ring.New[json.RawMessage](heldEvents)
		e.topics[topic] = r
		e.added.Put(func(uint64) string { return topic })
	}
	e.mu.Unlock()
	r.Put(func(uint64) json.RawMessage { return data })
	return nil
}

// Publish sends v, as encoding/json writes it, to all who follow the topic at
// /api/v1/events: letters, digits and _. A topic exists from its first event on,
// which also those get who follow all that there is; there can be 26 of a host. It
// is an error if v cannot be written or is larger than 16 KiB.
func (s *Server) Publish(topic string, v any) error {
	switch topic {
	case topicStats, topicHealth, topicConfiguration, topicAudit:
		return fmt.Errorf("opsapi: the topic %s is the Server's own", topic)
	}
	return s.events.publish(topic, v)
}

// ReportSecurity adds an event to those that getSecurityEvents lists.
func (s *Server) ReportSecurity(e SecurityEvent) {
	if e.Time.IsZero() {
		e.Time = s.now()
	}
	e.Time = e.Time.UTC()
	if e.Severity == "" {
		e.Severity = SeverityWarning
	}
	e.Kind, e.Component, e.Subject, e.Message, e.Correlation = bounded(e.Kind), bounded(e.Component), bounded(e.Subject), bounded(e.Message), bounded(e.Correlation)
	s.events.security.Put(func(n uint64) SecurityEvent { e.Seq = n; return e })
}

// reportOwn is ReportSecurity for what happens to the Server itself.
func (s *Server) reportOwn(e SecurityEvent) {
	e.Component = "ops"
	s.ReportSecurity(e)
	if s.opts.security != nil {
		s.opts.security(e)
	}
}

// marshal is json.Marshal that leaves < > & as they are.
func marshal(v any) (json.RawMessage, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
}
