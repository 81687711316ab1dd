package spool

// entry is where a message is.
type entry struct {
	seg, stateSeg   *segment // stateSeg is nil while the state is in the message's record
	off, stateOff   uint32
	envelope, first uint32 // lengths in the message's record; first is that of the state
	state           uint32 // length of the state in stateSeg
	own             bool
	size            int64
}

// record is the size of the message's record.
func (e *entry) record() int64 {
	h := header{envelope: e.envelope, state: e.first, own: e.own, body: e.size}
	return h.size()
}

func (e *entry) stateRecord() int64 { return align(headerSize + int64(e.state)) }

// put enters a message, in place of what there is of it. The caller holds the lock.
func (l *fileLog) put(seg *segment, off int64, h header) {
	l.drop(h.key)
	e := entry{seg: seg, off: uint32(off), envelope: h.envelope, first: h.state, own: h.own, size: h.body}
	seg.live += e.record()
	seg.messages++
	l.stats.Bytes += e.size
	l.index[h.key] = e
}

// putState enters a state, if there is a message for it.
func (l *fileLog) putState(seg *segment, off int64, h header) bool {
	e, ok := l.index[h.key]
	if !ok {
		return false
	}
	if e.stateSeg != nil {
		e.stateSeg.live -= e.stateRecord()
	}
	e.stateSeg, e.stateOff, e.state = seg, uint32(off), h.state
	seg.live += e.stateRecord()
	l.index[h.key] = e
	return true
}

func (l *fileLog) drop(k key) (entry, bool) {
	e, ok := l.index[k]
	if !ok {
		return entry{}, false
	}
	e.seg.live -= e.record()
	e.seg.messages--
	if e.stateSeg != nil {
		e.stateSeg.live -= e.stateRecord()
	}
	l.stats.Bytes -= e.size
	delete(l.index, k)
	return e, true
}
