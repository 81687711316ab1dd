// Package history keeps what is known of finished messages, for those who ask what
// became of one.
//
// Records come in the order in which messages finish, and are kept in chunks of
// some hundred. The chunk that is being filled is in memory and written every few
// seconds as long as it grows; the others are in the storage, or without one in
// memory, compressed. So a message costs no write of its own, and of each only the
// name and the place are in memory.
//
//	email/history/{time, 16 hexadecimal digits}-{random}
//
// What finished in the last seconds before a crash is not there.
package history
