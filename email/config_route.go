package email

// Route says what happens to the mail that Match describes. It is decided for
// each recipient on its own. Of several routes that match, the one with the
// higher Priority wins, then the one given first.
type Route struct {
	// Name identifies the route in logs and statistics. It must be unique.
	Name string `json:"name" conf:"key"`
	// Priority orders routes, higher first. Default 0.
	Priority int `json:"priority"`
	// Enabled set to false takes the route out of service. The default nil
	// means true.
	Enabled *bool `json:"enabled"`
	// Match says which mail the route takes.
	Match Match `json:"match"`
	// Action says what happens to it.
	Action Action `json:"action"`
}

// Match is a set of conditions, all of which must hold. An empty one always
// does. Conditions on text are globs, in which * is any run of characters and
// ? any one, or regular expressions (RE2) written /.../ or /.../i. Globs on
// addresses and headers disregard case. Internationalized domains are compared in
// A-labels, which globs need not be written in.
type Match struct {
	// Recipients are patterns of envelope recipients, as "*@example.com". One
	// of them must match.
	Recipients []string `json:"recipients"`
	// Senders are patterns of the envelope sender. The null sender of bounces
	// is "".
	Senders []string `json:"senders"`
	// ClientIP are addresses and CIDR blocks of the client.
	ClientIP []string `json:"clientIp"`
	// Authenticated asks for clients that have signed in, or for those that
	// have not. Nil takes both.
	Authenticated *bool `json:"authenticated"`
	// Headers are conditions on headers of the message: name to pattern.
	Headers map[string]string `json:"headers"`
	// SizeRange bounds the size of the message.
	SizeRange SizeRange `json:"sizeRange"`
	// HasAttachments asks for messages with attachments, or without. Nil takes
	// both.
	HasAttachments *bool `json:"hasAttachments"`
	// Subject is a pattern of the decoded Subject.
	Subject string `json:"subject"`
}

// SizeRange bounds the size of a message, in bytes, both ends included.
type SizeRange struct {
	// Min is the least. Default 0.
	Min int64 `json:"min"`
	// Max is the most. The default 0 means no bound.
	Max int64 `json:"max"`
}

// Values of [Action.Type].
const (
	// Forward hands mail to another server.
	Forward = "forward"
	// Process scans, signs and queues mail for its destination.
	Process = "process"
	// Deliver puts mail into a mailbox here.
	Deliver = "deliver"
	// Reject refuses mail.
	Reject = "reject"
)

// Action is what happens to matched mail. Beside Type, only the section of
// that type may be given.
type Action struct {
	// Type is [Forward], [Process], [Deliver] or [Reject]. Required.
	Type string `json:"type"`
	// Forward is required for that type.
	Forward *ForwardAction `json:"forward"`
	// Process may be nil: then its defaults hold.
	Process *ProcessAction `json:"process"`
	// Deliver may be nil: then its defaults hold.
	Deliver *DeliverAction `json:"deliver"`
	// Reject may be nil: then its defaults hold.
	Reject *RejectAction `json:"reject"`
}

// ForwardAction says where mail is handed to.
type ForwardAction struct {
	// Host is a name or an address. Required.
	Host string `json:"host" conf:"key"`
	// Port is the port there. The default 0 means 25.
	Port int `json:"port" conf:"key"`
	// Auth signs in there.
	Auth *Credentials `json:"auth"`
	// TLS is about TLS on the way there.
	TLS ClientTLS `json:"tls" conf:"key"` // a password must not follow to weaker TLS
	// AddHeaders are put in front of the message's own headers. They are no secrets.
	AddHeaders map[string]string `json:"addHeaders"`
	// Queue accepts mail first and hands it over after that, as often as
	// [Config.Queue] says. The default false hands it over while the client
	// waits, who is told what the other server says, and queues only what users
	// who signed in send to several places at once.
	Queue bool `json:"queue"`
	// SRS is for servers that check where mail comes from, as those of other
	// organisations do: the sender becomes an address of the recipient's domain,
	// by which bounces find the way back (Sender Rewriting Scheme), and what was
	// found out about the sender is sealed (ARC, RFC 8617), if that domain has a
	// DKIM key here. Default false.
	SRS bool `json:"srs"`
}

// Values of [ProcessAction.Queue].
const (
	// NormalQueue is for most mail.
	NormalQueue = "normal"
	// PriorityQueue is served first.
	PriorityQueue = "priority"
)

// ProcessAction says how mail is made ready and sent.
type ProcessAction struct {
	// Scan has [Config.Scanners] look at the content.
	Scan bool `json:"scan"`
	// DKIM signs mail from domains that have a key. The default nil means
	// true.
	DKIM *bool `json:"dkim"`
	// Queue is [NormalQueue], the default, or [PriorityQueue].
	Queue string `json:"queue"`
}

// DeliverAction says where mailboxes are. At most one field is given; without
// any it is the host's [WithMailbox], or else the Maildir "mail/{domain}/{user}"
// below [Config.DataPath]. A Maildir is made when its first mail comes, for any
// user that the route takes: let Match.Recipients, or a hook, say who there is.
type DeliverAction struct {
	// Maildir is the folder of the recipient's mailbox. {domain} and {user}
	// stand for the parts of the address, in lower case; {user} must be there, and
	// without {domain} users of the same name share a mailbox. In one name of the
	// path there must be an "@" between them.
	Maildir string `json:"maildir"`
	// LMTP is a server that delivers (RFC 2033): host:port, or the path of a
	// Unix socket.
	LMTP string `json:"lmtp"`
}

// RejectAction is the reply to mail that is refused.
type RejectAction struct {
	// Code is the reply code (RFC 5321 section 4.2): 400 to 499 asks to try
	// later, 500 to 599 refuses for good. The default 0 means 550.
	Code int `json:"code"`
	// Message is the text of the reply. It has a default of its own.
	Message string `json:"message"`
}
