// Package scan looks at the content of messages: for spam, malware and
// attachments that are not wanted. Three scanners are built in ([NewSpam],
// [NewVirus], [NewAttachments]); four ask other programs ([NewRspamd],
// [NewSpamd], [NewClamd], [NewMilter]).
//
// A scanner reports; what becomes of the message, also if a scanner fails, is for
// its caller to decide. All of them read the message as it is in its file, in
// memory that does not depend on its size, and end when their context does.
package scan
