package dsn

import "strings"

// clearReason knows what leaves little doubt. The order counts: what is said
// about the sender goes first, as much of it would read like a word about the
// recipient. The text is normalized.
func clearReason(s string) Reason {
	switch {
	case s == "":
		return ""
	case strings.Contains(s, "account or domain may not exist"):
		return NoSuchUser // a hoster who lists all that it could be besides
	case isAuth(s):
		return Auth
	case containsAny(s, "greylist", "graylist", "grey-list", "gray-list", "grey listed"):
		return Greylisted
	case containsAny(s,
		"reverse dns", "rdns", "ptr record", "no ptr", "ptr resource", "reverse lookup", "reverse mapping",
		"cannot find your hostname", "reverse hostname", "spamhaus", "spamcop", "barracudacentral", "blocklist", "block list",
		"blacklist", "black list", "blackhole", "denylist", "dnsbl", "rbl.", " rbl", "(rbl", "sorbs", "uceprotect",
		"mailspike", "surbl", "abuseat.org", "senderscore", "senderbase", "sender score", "reputation",
		"ip address has been blocked", "ip has been blocked", "your ip", "sending ip", "dynamic ip", "dynamic address",
		"dynamic host", "generic hostname", "client address", "access from ip", "connections from your", "bad dns", "s3140",
		"s3150", "network is on our block", "ip addresses are not allowed", "from your network", "forcertdns", "host rejected",
		"mismatches client ip", "invalid ip for sending", "your server ip", "unusual amount of unsolicited"):
		return Reputation
	case containsAny(s,
		"sender address rejected", "sender rejected", "sender denied", "sender verify", "sender verification", "sender domain",
		"domain of sender", "sender's domain", "mail from domain", "return path", "return-path", "from address",
		"invalid sender", "sender invalid", "unroutable sender", "unrouteable sender", "unknown sender", "bad sender",
		"sender not", "sender is not", "senders domain", "envelope from", "helo command rejected", "invalid helo", "ehlo",
		"your domain", "your email address", "restricted senders", "authorized senders", "authorised senders",
		"only accepts mail from", "not authorized to send", "not authorised to send", "resolver.rst.notauthorized",
		"resolver.rst.authrequired", "senderauthentication"):
		return Policy
	case containsAny(s,
		"relay access denied", "relaying denied", "unable to relay", "relay not permitted", "not permitted to relay",
		"relaying not", "not relay", "relay denied", "relay prohibited", "relaying is prohibited", "no relaying",
		"relay operation", "relaying mail", "not a gateway", "rcpthosts", "relay this message"):
		return Relaying
	case isFull(s):
		return MailboxFull
	case containsAny(s,
		"frequency limited", "too many messages", "too many connections", "too many concurrent", "rate limit", "ratelimit",
		"rate-limit", "throttl", "too fast", "too quickly", "too many recipients", "too many emails", "too many mails",
		"too many sessions", "unusual rate", "at a rate", "limit exceeded for", "exceeded the maximum number", "daily limit",
		"hourly limit", "sending limit", "maxconnect", "excessive", "too much mail", "connection limit", "max message limit",
		"slow down"):
		return Rate
	case containsAny(s,
		"message too large", "message is too large", "message size", "too big", "message exceeds", "size limit",
		"maximum size", "size exceeds", "larger than the", "message length exceeds", "exceeds the maximum", "sizeexceeded",
		"recipsizelimit", "exceeds maximum", "message is larger"):
		return Size
	case containsAny(s,
		"host unknown", "host not found", "unknown host", "no such host", "no such domain", "domain not found",
		"domain does not exist", "domain doesn't exist", "nxdomain", "unrouteable mail domain", "unrouteable domain",
		"non-existent hosts", "no relevant answers", "null mx", "nullmx", "no mx found", "find a mail exchanger",
		"indicated no smtp service", "does not accept mail", "doesn't accept mail", "domain name not found",
		"not a valid domain", "invalid domain", "domain is not hosted", "bad destination host", "no mx record",
		"no valid mail exchanger", "couldn't find any host", "couldn't find any mail exchanger", "domain couldn't be found",
		"unknown domain", "illegal host/domain", "name or service not known", "could not resolve address to an mx"):
		if containsAny(s, "try again", "temporar") {
			return Network
		}
		return NoSuchDomain
	case isDisabled(s):
		return Disabled
	case isUnknownUser(s):
		return NoSuchUser
	case containsAny(s,
		"delivery time expired", "envelope expired", "could not deliver for the last", "message expired", "retry time",
		"too long in the queue", "for too long", "queue too long", "delivery expired", "unable to deliver this message after",
		"undeliverable for", "been on the queue", "has been in the queue", "could not be delivered for more than",
		"could not be delivered within"):
		return Expired
	case isNetwork(s):
		return Network
	case strings.Contains(s, "rejected, ube"):
		return Spam // amavis
	case containsAny(s,
		"virus", "malware", "infected", "trojan", "phish", "executable", "file type", "filetype", "attachment",
		"banned content", "banned file", "bare lf", "bare newline", "bare linefeed", "malformed", "message content rejected",
		"invalid message", "rfc 5322", "rfc 2822", "rfc5322", "rfc2822", "header is missing", "missing header",
		"invalid header", "header error", "dangerous", "suspicious content", "illegal content", "multiple from",
		"duplicate header", "improper use of 8-bit", "mime error", "conversion"):
		return Content
	case containsAny(s,
		"spam", "unsolicited", "junk mail", "bulk mail", "looks like", "content filter", "objectionable", "content rejected",
		"message content", "rejected due to content", "high probability", "contains content", "not wanted here",
		"blocked by url", "uri", "suspected"):
		return Spam
	case containsAny(s,
		"too many hops", "mail loop", "loop detected", "loops back", "hop count", "routing loop", "looping", "mail for itself",
		"out of memory", "disk full", "no space", "insufficient system", "system resources", "i/o error", "internal error",
		"internal server", "server error", "cannot open", "can't create", "could not create", "configuration error",
		"temporary failure", "system error", "server busy", "service shutting down", "system problem", "insufficient disk",
		"alias database unavailable", "unable to write", "input/output error", "program exit", "command failed",
		"child status", "unknown mailer error"):
		return System
	case containsAny(s,
		"starttls", "tls required", "requires tls", "tls is required", "requiretls", "encryption required",
		"encryption needed", "smtputf8", "8bitmime", "syntax error", "command not", "unrecognized command",
		"unrecognized parameter", "bad sequence", "parameters not", "protocol error", "certificate", "must issue",
		"smtp protocol"):
		return Protocol
	}
	return ""
}

// vagueReason knows what is often said and may mean several things.
func vagueReason(s, status string) Reason {
	switch {
	case s == "":
		return ""
	case !isElsewhere(status) && containsAny(s,
		"mailbox unavailable", "address rejected", "recipient rejected", "recipient address", "bad address", "not available",
		"unrouteable", "no longer", "couldn't be found", "was not found", "wasn't found", "cannot find",
		"mailbox name not allowed", "delivery error", "delivery not allowed to non-local"):
		return NoSuchUser
	case containsAny(s,
		"policy", "prohibited", "not allowed", "not authorized", "not authorised", "denied", "permission", "restrict",
		"not accept", "rejected", "refused", "moderat", "must be authenticated", "authentication required", "disallowed",
		"banned", "violat", "forbidden", "not permitted", "block", "admin", "abuse", "filter", "security", "rejecting"):
		return Policy
	case containsAny(s, "unavailable", "try again", "resource", "busy", "temporar", "try later", "service not", "deferred"):
		return System
	}
	return ""
}

// isElsewhere says that a status is about something else than the address.
func isElsewhere(status string) bool {
	return len(status) > 2 && strings.Contains("3467", status[2:3])
}

func isAuth(s string) bool {
	return containsAny(s,
		"dmarc", "dkim", "spf ", "spf:", "spf)", "(spf", " spf", "sender policy framework", "unauthenticated email",
		"unauthenticated mail", "sender id (pra)", "not pass authentication", "authentication checks", "5.7.26",
		"failed authentication", "email authentication", "sender authentication")
}

func isFull(s string) bool {
	if containsAny(s,
		"quota", "mailbox full", "mailbox was full", "inbox full", "account full", "maildir full", "mailbox exceeds",
		"mailbox has exceeded", "mailbox size limit", "mailbox space", "out of storage", "out of space", "storage limit",
		"storage full", "exceeded storage", "exceeded its storage", "exceeds allowed", "exceeded the space", "too much data",
		"mailbox over", "boite du destinataire pleine", "not enough storage space", "no space left in", "mail box full",
		"is full", "space used", "storage allocation", "insufficient disk space to accept") {
		return !containsAny(s, "message quota", "relay quota", "daily", "rate quota", "sending quota", "disk full", "quota exceeded for sending")
	}
	return strings.Contains(s, "mailbox") && containsAny(s, "too many messages", "limit exceeded", "exceeded the local limit")
}

func isDisabled(s string) bool {
	if containsAny(s,
		"account has been disabled", "account disabled", "account inactive", "account has been suspended", "account suspended",
		"account deactivated", "has been deactivated", "mailbox disabled", "mailbox inactive", "user disabled",
		"inactive user", "user inactive", "not active", "no longer active", "no longer in use", "no longer valid",
		"no longer available", "no longer accepts", "no longer exists", "no longer on server", "no longer works",
		"no longer employed", "has left the", "account closed", "account is closed", "account expired",
		"mailbox unavailable or access denied", "account locked", "account is locked", "user suspended", "is disabled",
		"is suspended", "was suspended", "mailbox frozen", "mailbox is frozen", "mailbox currently suspended", "discontinued",
		"email account that you tried to reach is over", "recipient suspend", "retired", "user has moved", "has been closed",
		"currently inactive", "is inactive", "temporarily disabled", "temporary disabled") {
		return true
	}
	return containsAny(s, "no longer") && containsAny(s, "recipient", "user", "mailbox", "account", "address")
}

func isUnknownUser(s string) bool {
	switch {
	case containsAny(s,
		"user unknown", "unknown user", "user is unknown", "no such user", "no such person", "no such recipient",
		"no such mailbox", "no such account", "no such address", "no such email", "no such local user", "no such id",
		"user not found", "mailbox not found", "address not found", "account not found", "recipient unknown",
		"unknown recipient", "address unknown", "unknown address", "unknown email address", "unknown local", "unknown account",
		"unknown mailbox", "mailbox unknown", "invalid recipient", "invalid final delivery userid", "invalid mailbox",
		"invalid user", "invalid address", "address invalid", "not a valid recipient", "not a valid user",
		"not a valid mailbox", "not a known user", "not a local user", "no valid recipient", "not our customer",
		"alias not found", "bad destination mailbox", "bad destination email", "bad recipient", "addressee unknown",
		"no mailbox here", "no mail-box", "no mailbox by that name", "recipnotfound", "recipientnotfound",
		"undeliverable address", "undeliverable mail", "unknown or illegal alias", "unknown or illegal user",
		"not listed in domino directory", "not listed in public name", "is not recognized", "user invalid",
		"email address could not be found", "email address wasn't found", "address couldn't be found", "nosuchuser",
		"unknownuser", "destinataire inconnu", "empfänger unbekannt", "usuario desconocido", "usuario inexistente",
		"utente sconosciuto", "nie istnieje", "no account by that name", "no account with", "no user by that name",
		"no local mailbox", "mailbox doesn't exist", "there is no one at this address", "no one with that email",
		"isn't in my list", "not known at this site", "not known here", "dosn't exist", "is not a known",
		"user name doesn't exist", "no recipients", "unknown to", "unable to find user", "this user doesn't have",
		"is not local", "not listed here", "not exist", "wasn't recognized", "local user only", "unknown virtual",
		"not in my user", "user lookup", "archived recipient", "destination addresses were unknown",
		"does not have an account", "email address is not valid", "could not find recipient", "recipient not",
		"recipient was not found", "unmatched recipient", "no such name", "user does not",
		"destination server rejected recipients"):
		return true
	case containsAny(s, "does not exist", "doesn't exist", "not exists", "don't exist", "does not exit", "not found") && containsAny(s, "user", "account", "mailbox", "recipient", "address", "person", "alias", "rcpt", "inbox"):
		return !containsAny(s, "host not found", "domain not found", "host or domain", "domain name")
	case containsAny(s, "unknown", "not known") && containsAny(s, "user", "recipient", "mailbox", "local part", "rcpt"):
		return !containsAny(s, "unknown error", "unknown reason", "unknown host", "unknown domain", "host unknown")
	case strings.Contains(s, "requested action not taken: mailbox unavailable"):
		return true // the text of RFC 5321 for 550, as of Outlook.com and GMX
	}
	return false
}

func isNetwork(s string) bool {
	return containsAny(s,
		"connection refused", "requests to connect", "socket error", "timed out", "timeout", "time out", "no route to host",
		"connection reset", "lost connection", "connection lost", "connection dropped", "connection closed",
		"could not connect", "couldn't connect", "unable to connect", "can't connect", "cannot connect", "connect to ",
		"connection died", "dns error", "name service error", "dns lookup", "dns failure", "dns query", "temporary lookup",
		"name server", "host lookup", "no answer from", "not responding", "did not respond", "no smtp connection",
		"wasn't able to establish", "unable to establish", "remote host closed", "broken pipe", "connection failed",
		"failed to connect", "connection unexpectedly", "bad connection", "establish an smtp connection", "all hosts",
		"unreachable")
}
