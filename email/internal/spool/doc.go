// Package spool keeps messages that were taken responsibility for (RFC 5321
// section 4.2.5: a server that answers 250 must not lose the message) until
// they are delivered, across crashes of process and machine.
//
//	d, err := store.Draft(ctx)                  // ErrFull: answer 452
//	defer d.Discard()                           // does nothing once added
//	_, err = io.Copy(d, data)                   // as it arrives
//	verdict := scan(d.Body())
//	id := spool.NewID(now())
//	err = store.Add(ctx, id, envelope, d)       // nil: durable, answer 250
//	...
//	err = store.SetState(ctx, id, state)        // who has it, when to try again
//	err = store.Remove(ctx, id)                 // all have it
//
// There are three stores: [OpenLog], a log in a folder of its own, which is
// what a server wants; [OpenStorage], for hosts that keep everything in a
// backend of theirs; and [Memory].
//
// # The log
//
// The log is a row of segments, files of equal size that are written from
// front to back. A record holds a message (envelope, state and body), a new
// state of one, or that one is done. One goroutine writes: all that was asked
// for while it flushed the disk becomes one batch, with one flush, after which
// all who asked are told. So a lone caller waits for one flush and for nothing
// else, and many share it. Bodies that are large have a file each, which the
// draft already was, so they are written once.
//
// Segments are cleaned from the oldest on: what is alive in it is copied to the
// end of the log. As no record is ever kept longer than an older one, "done" is
// forgotten only after all that it is about. Files that were cleaned are
// used again, because overwriting costs a flush less than growing does.
//
// What a crash leaves is read in one pass at the start. The last batch may be
// torn, and what of it is whole counts. Elsewhere nothing may be missing: where
// something is, the log says so, goes on behind it, and never removes the file,
// nor one of a body that may belong to what is missing.
package spool
