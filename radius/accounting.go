package radius

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	layeh "layeh.com/radius"
	"layeh.com/radius/rfc2865"
	"layeh.com/radius/rfc2866"
	"layeh.com/radius/rfc2869"
	"layeh.com/radius/rfc3162"
)

var (
	errNoSessionID     = errors.New("it has no Acct-Session-Id")
	errNoStatus        = errors.New("it has no Acct-Status-Type")
	errStaleByNAS      = errors.New("its Acct-Status-Type is that of stale sessions, which no NAS reports")
	errTooManySessions = errors.New("as many sessions as accounting.maxSessions are open, or as many again have ended in the last 10 minutes")
)

// causeNASReboot is the Acct-Terminate-Cause of sessions that end with their
// NAS.
const causeNASReboot = 11

// integer returns the value of a number, 0 if there is none.
func integer(attrs layeh.Attributes, t layeh.Type) uint32 {
	n, err := layeh.Integer(attrs.Get(t))
	if err != nil {
		return 0
	}
	return n
}

// octets puts the two halves of a counter together (RFC 2869 section 5.1).
func octets(attrs layeh.Attributes, low, high layeh.Type) uint64 {
	return uint64(integer(attrs, high))<<32 | uint64(integer(attrs, low))
}

func address(attrs layeh.Attributes, t4, t6 layeh.Type) netip.Addr {
	if a, ok := netip.AddrFromSlice(attrs.Get(t4)); ok && a.Is4() {
		return a
	}
	a, _ := netip.AddrFromSlice(attrs.Get(t6))
	return a
}

// newRecord reads an Accounting-Request (RFC 2866).
func newRecord(in *arrival) (*Record, error) {
	p, err := layeh.Parse(in.d, nil)
	if err != nil {
		return nil, err
	}
	attrs := p.Attributes
	status, ok := attrs.Lookup(rfc2866.AcctStatusType_Type)
	if !ok || len(status) != 4 {
		return nil, errNoStatus
	}
	r := &Record{Status: Status(binary.BigEndian.Uint32(status)), Client: in.client.Name, Time: in.at, Packet: p}
	if r.Status == StatusStale {
		return nil, errStaleByNAS
	}
	if stamp := integer(attrs, rfc2869.EventTimestamp_Type); stamp != 0 {
		r.Time = time.Unix(int64(stamp), 0)
	} else {
		r.Time = in.at.Add(-time.Duration(integer(attrs, rfc2866.AcctDelayTime_Type)) * time.Second)
	}
	r.Time = sane(r.Time, in.at)
	text := func(t layeh.Type) string { return string(attrs.Get(t)) }
	r.Session = Session{
		Source:        in.from.Addr().WithZone(""),
		NASIdentifier: text(rfc2865.NASIdentifier_Type),
		NASAddress:    address(attrs, rfc2865.NASIPAddress_Type, rfc3162.NASIPv6Address_Type),
		Updated:       in.at,
	}
	if r.Status == StatusOn || r.Status == StatusOff {
		return r, nil
	}
	s := &r.Session
	s.ID = text(rfc2866.AcctSessionID_Type)
	if s.ID == "" {
		return nil, errNoSessionID
	}
	if class := attrs.Get(rfc2865.Class_Type); len(class) > 0 {
		s.Class = class
	}
	s.UserName = text(rfc2865.UserName_Type)
	s.CallingStationID, s.CalledStationID = text(rfc2865.CallingStationID_Type), text(rfc2865.CalledStationID_Type)
	s.VLAN = in.d.vlan()
	s.NASPort, s.NASPortID = integer(attrs, rfc2865.NASPort_Type), text(rfc2869.NASPortID_Type)
	s.FramedIP = address(attrs, rfc2865.FramedIPAddress_Type, framedIPv6Address)
	s.Duration = time.Duration(integer(attrs, rfc2866.AcctSessionTime_Type)) * time.Second
	s.InputOctets = octets(attrs, rfc2866.AcctInputOctets_Type, rfc2869.AcctInputGigawords_Type)
	s.OutputOctets = octets(attrs, rfc2866.AcctOutputOctets_Type, rfc2869.AcctOutputGigawords_Type)
	s.InputPackets, s.OutputPackets = integer(attrs, rfc2866.AcctInputPackets_Type), integer(attrs, rfc2866.AcctOutputPackets_Type)
	s.Start = sane(r.Time.Add(-s.Duration), r.Time)
	if r.Status == StatusStop {
		s.TerminateCause = integer(attrs, rfc2866.AcctTerminateCause_Type)
		s.Stopped = r.Time
	}
	return r, nil
}

// sane replaces a time from before there were computers to speak of.
func sane(t, otherwise time.Time) time.Time {
	if t.Unix() <= 0 {
		return otherwise
	}
	return t
}

// framedIPv6Address is Framed-IPv6-Address (RFC 6911 section 3.1).
const framedIPv6Address layeh.Type = 168

// merge puts what a record says on top of what is known of the session. Records
// may come late or twice: counters do not go back, and what has ended stays so.
func (s *Session) merge(old *Session) {
	switch {
	case s.Duration == old.Duration: // as of all records of a NAS without Acct-Session-Time
		s.InputOctets, s.OutputOctets = max(s.InputOctets, old.InputOctets), max(s.OutputOctets, old.OutputOctets)
		s.InputPackets, s.OutputPackets = max(s.InputPackets, old.InputPackets), max(s.OutputPackets, old.OutputPackets)
	case s.Duration < old.Duration:
		s.Duration = old.Duration
		s.InputOctets, s.OutputOctets = old.InputOctets, old.OutputOctets
		s.InputPackets, s.OutputPackets = old.InputPackets, old.OutputPackets
	}
	if old.Start.Before(s.Start) {
		s.Start = old.Start
	}
	if old.Updated.After(s.Updated) {
		s.Updated = old.Updated
	}
	if s.Stopped.IsZero() {
		s.Stopped, s.TerminateCause = old.Stopped, old.TerminateCause
	}
	s.VLAN = valueOr(s.VLAN, old.VLAN)
	s.UserName = valueOr(s.UserName, old.UserName)
	s.CallingStationID = valueOr(s.CallingStationID, old.CallingStationID)
	s.CalledStationID = valueOr(s.CalledStationID, old.CalledStationID)
	s.NASAddress = valueOr(s.NASAddress, old.NASAddress)
	s.NASPort = valueOr(s.NASPort, old.NASPort)
	s.NASPortID = valueOr(s.NASPortID, old.NASPortID)
	s.FramedIP = valueOr(s.FramedIP, old.FramedIP)
}

// on returns the session as it is with the record on top of what was known. A
// Start that is later than the end of the session is another session: there are
// NASes that count from 1 again when they restart. The end by Accounting-On is by
// our clock, and the NAS's may not be set yet. A session that was closed since
// nothing had been heard of it for staleAfter is open again when it is heard of.
func (r *Record) on(old string, staleAfter time.Duration) Session {
	s := r.Session
	before, err := decodeSession(old)
	if err != nil {
		return s
	}
	if r.Status == StatusStart && !before.Stopped.IsZero() {
		restarted := before.TerminateCause == causeNASReboot && s.Updated.After(before.Stopped)
		if restarted || r.Time.After(before.Stopped) {
			return s
		}
	}
	// Of no other is the last record so long before its end; milliseconds are kept.
	if r.Status != StatusStop && before.TerminateCause == 0 && before.Stopped.Sub(before.Updated) >= staleAfter-time.Millisecond {
		before.Stopped = time.Time{}
	}
	s.merge(&before)
	return s
}

// takeAccounting deals with an Accounting-Request: the record is kept, given to the
// home servers of its realm if it has any, and only then acknowledged.
func (r *run) takeAccounting(in *arrival) {
	s := r.s
	record, err := newRecord(in)
	if err != nil {
		r.answer(in, nil, &dropError{malformed, err})
		return
	}
	in = in.clone()
	realm, user := s.realmOf(s.sessions.userOf(&record.Session))
	if realm == nil {
		r.later(in, r.records, true, func(ctx context.Context) (datagram, error) {
			if err := r.account(ctx, in, record); err != nil {
				return nil, err
			}
			return s.acknowledge(in)
		})
		return
	}
	r.later(in, realm.acct, !realm.isDown((*homeServer).acctLink), func(ctx context.Context) (datagram, error) {
		if !r.records.enter(ctx, true) {
			return nil, &dropError{accountingFailed, ctx.Err()}
		}
		err := r.account(ctx, in, record)
		r.records.leave()
		if err == nil {
			err = s.forwardAccounting(ctx, in, realm, user)
		}
		if err != nil {
			return nil, err
		}
		return s.acknowledge(in)
	})
}

// userOf returns whose session it is: there are NASes that say so in its first
// record only.
func (t *sessions) userOf(s *Session) string {
	if s.UserName != "" {
		return s.UserName
	}
	encoded, _ := t.get(keyOfSession(s))
	known, _ := decodeSession(encoded)
	return known.UserName
}

// account tells the sink of a record and stores it.
func (r *run) account(ctx context.Context, in *arrival, record *Record) error {
	s := r.s
	failed := func(err error) error { return &dropError{accountingFailed, err} }
	var c *change
	switch session := &record.Session; record.Status {
	case StatusOn, StatusOff:
		// Repeated, it is about the same moment as before: by our clock, since
		// that of a NAS that has just started is often wrong.
		delay := time.Duration(integer(record.Packet.Attributes, rfc2866.AcctDelayTime_Type)) * time.Second
		at := sane(in.at.Add(-delay), in.at).Truncate(time.Millisecond)
		closing := &closing{nas{session.Source, session.NASIdentifier, session.NASAddress}, at, causeNASReboot}
		record.Closed = s.sessions.wouldClose(closing)
		c = &change{closing: closing}
	case StatusStart, StatusInterim, StatusStop:
		if session.VLAN == "" {
			session.VLAN = s.vlans.find(newSubject(session.Source, session.UserName, session.CallingStationID))
		}
		key := keyOfSession(session)
		if old, ok := s.sessions.get(key); ok {
			*session = record.on(old, s.sessions.staleAfter)
		} else if s.sessions.full(record.Status == StatusStop) {
			return failed(errTooManySessions)
		}
		c = &change{key: key, next: func(old string) string {
			merged := record.on(old, s.sessions.staleAfter)
			return string(appendSession(nil, &merged))
		}}
	}
	told := *record // the host's to keep
	if err := s.tell(ctx, &told); err != nil {
		return failed(err)
	}
	if c != nil {
		if err := r.journal.do(ctx, c); err != nil {
			return failed(err)
		}
	}
	return nil
}

// acknowledge makes the answer to a record.
func (s *Server) acknowledge(in *arrival) (datagram, error) {
	reply, err := encodePlain(in, layeh.CodeAccountingResponse, in.outline.signature != 0)
	if err == nil {
		s.stats.accounting.Add(1)
		in.client.stats.accounting.Add(1)
	}
	return reply, err
}

// tell calls the sink, if there is one.
func (s *Server) tell(ctx context.Context, record *Record) (err error) {
	if s.opts.sink == nil {
		return nil
	}
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("the accounting sink panicked", "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("the sink panicked: %v", p)
		}
	}()
	return s.opts.sink(ctx, record)
}

// sweepSessions closes sessions that nothing was heard of, and forgets those
// that ended some time ago.
func (r *run) sweepSessions() {
	t := r.s.sessions
	pause := min(time.Minute, max(t.staleAfter/4, 10*time.Millisecond))
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			r.sweep(time.Now())
		case <-r.quit:
			return
		}
	}
}

func (r *run) sweep(now time.Time) {
	t := r.s.sessions
	var expiring sync.WaitGroup
	defer expiring.Wait()
	var failed atomic.Bool
	// Several at a time, since they share the writes of the journal; but far from
	// all that there may be: NASes report meanwhile.
	closing := make(places, max(1, cap(r.records)/8))
	for i := range t.shards {
		var stale []sessionKey
		shard := &t.shards[i]
		shard.mu.Lock()
		for k, encoded := range shard.entries {
			h := decodeHead(encoded)
			if h.stopped.IsZero() {
				if r.silentFor(h.updated, now) > t.staleAfter {
					stale = append(stale, k)
				}
			} else if h.isOver(now) {
				t.remove(shard, k)
			}
		}
		shard.mu.Unlock()
		for _, k := range stale {
			select {
			case closing <- struct{}{}:
			case <-r.quit:
				return
			}
			if failed.Load() { // the rest has no better chance now
				closing.leave()
				return
			}
			expiring.Go(func() {
				defer closing.leave()
				if !r.records.enter(r.ctx, true) {
					return
				}
				defer r.records.leave()
				err := r.expire(k, now)
				if err == nil {
					return
				}
				failed.Store(true)
				if skipped, ok := r.s.notices.first(netip.Addr{}, accountingFailed, now); ok {
					r.s.log.Error("a stale session could not be closed; it is tried again", "err", err, "not_logged", skipped)
				}
			})
		}
	}
}

// silentFor is how long nothing has been heard of a session. While the Server
// did not run, nothing could be.
func (r *run) silentFor(updated, now time.Time) time.Duration {
	return min(now.Sub(updated), now.Sub(r.began))
}

// expire closes one session, and tells the sink.
func (r *run) expire(k sessionKey, now time.Time) error {
	t := r.s.sessions
	encoded, _ := t.get(k)
	session, err := decodeSession(encoded)
	if err != nil || !session.Stopped.IsZero() || r.silentFor(session.Updated, now) <= t.staleAfter {
		return nil // it has had news meanwhile
	}
	session.Stopped = now
	if err := r.s.tell(r.ctx, &Record{Status: StatusStale, Time: now, Session: session}); err != nil {
		return err
	}
	return r.journal.do(r.ctx, &change{key: k, next: func(old string) string {
		if old != encoded {
			return ""
		}
		return string(appendSession(nil, &session))
	}})
}
