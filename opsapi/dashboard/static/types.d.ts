// What the API answers, as far as the dashboard reads it.

export type Role = 'viewer' | 'operator' | 'admin';

export interface Identity { userId: string; name: string; role: Role; expiresAt: number }

export interface FieldProblem { path: string; message: string }

export interface Change { op: 'add' | 'remove' | 'replace' | 'reorder'; path: string; before?: unknown; after?: unknown }

export interface Applied { version: number; hash: string; confirmBy?: string; changes: Change[] }

export interface Pending { version: number; confirmBy: string; previous?: number }

export interface Checked { valid: boolean; problems: FieldProblem[]; changes: Change[] }

export interface ConfigurationEvent { what: 'applied' | 'pending' | 'confirmed' | 'reverted'; version: number; hash: string; author: string; confirmBy?: string }

export interface Configuration { configuration: any; version: number; hash: string; author: string; time: string; comment?: string; pending?: Pending }

export interface Version { version: number; hash: string; author: string; time: string; comment?: string; state: 'current' | 'pending' | 'past' | 'reverted' }

export interface Routes { routes: any[]; version: number; hash: string; pending?: Pending }

export interface Component { name: string; ready: boolean; detail?: string; addresses?: string[] }

export interface Health { status: 'healthy' | 'degraded'; time: string; uptimeSeconds: number; version?: string; components: Component[] }

export interface RouteStats {
  name: string; active: number; streams: number; requests: number; responses: number[];
  bytesIn: number; bytesOut: number; blocked: number; queued: number; retries: number;
}

export interface TargetStats {
  name: string; healthy: boolean; circuit?: string; ejections: number; active: number; total: number; failures: number; lastError?: string;
}

export type Counts = Record<string, number>;

export interface Transport { queries: number; responses: number; dropped: number; limited: number; refused: number; openConnections: number }

// All is optional: a host gives what it has.
export interface Stats {
  proxy?: {
    activeConnections: number; udpSessions: number; connections: number; requests: number;
    refused?: Counts; routes?: RouteStats[]; targets?: TargetStats[];
  };
  email?: {
    connections?: { open: number; total: number; refused: number };
    messages?: { accepted: number; bytes: number; refused: number; deferred: number; quarantined: number };
    refused?: Counts;
    signIns?: number; signInFailures?: number;
    deliveries?: { mailboxes: number; forwarded: number; deferred: number; failed: number };
    spool?: { messages: number; bytes: number; quarantined: number };
  };
  dns?: { transports?: Record<string, Transport>; types?: Counts; rcodes?: Counts };
  blocking?: { active: number; counted: number; made: number; refused?: Counts };
  radius?: { requests: number; accepts: number; rejects: number; accounting: number; sessions: number; dropped?: Counts };
}

export interface StatsEvent { time: string; uptimeSeconds: number; stats: Stats }

export interface LogEntry { seq: number; time: string; level: string; component?: string; correlation?: string; message: string; attributes?: Record<string, string> }

export interface Limit { name: string; value: number; unit: string; from: 'section' | 'limits' | 'default'; used?: number; reached?: number }
export interface SecurityEvent { seq: number; time: string; kind: string; component: string; severity: 'info' | 'warning' | 'critical'; address?: string; subject?: string; message: string; correlation?: string }

export interface Block { address: string; source: string; reason: string; since?: string; until?: string; times?: number }

export interface AuditEntry { seq: number; time: string; user: string; role?: string; address: string; method: string; outcome: 'ok' | 'error'; detail?: string }

export interface Reputation { address: string; blocked: boolean; score: number; reason?: string; listings: { list: string; detail?: string }[] }

export interface Recipient { address: string; route?: string; state: 'pending' | 'delivered' | 'failed'; reply?: string }

export interface QueuedMessage {
  id: string; connId?: string; from: string; recipients: Recipient[]; size: number; arrived: string; next?: string; tries: number;
  state: 'queued' | 'deferred' | 'quarantine' | 'failed'; reason?: string;
}

export interface MessageDetail {
  message?: QueuedMessage; headers?: string;
  timeline: { time: string; kind: string; recipient?: string; host?: string; text: string }[];
}

export interface Suppressed { address: string; reason: string; detail?: string; since: string; expires?: string }

export interface MailRecord { name: string; type: string; value: string; state: 'ok' | 'missing' | 'differs' | 'unknown'; found?: string[] }

export interface MailDomain { domain: string; mode: string; ready: boolean; records: MailRecord[] }

export interface Zone { name: string; serial: number; loaded: boolean; names: number; signed: boolean }

export interface DNSRecord { name: string; type: string; value: string; ttl: number }

export interface Certificate {
  name: string; source: string; issuer?: string; notBefore?: string; notAfter?: string;
  state: 'valid' | 'expiring' | 'expired' | 'missing' | 'failing';
  challenge?: string; inProgress?: boolean; failures?: number; lastError?: string; nextTry?: string;
}

export interface RADIUSSession {
  key: string; id: string; source: string; nasIdentifier?: string; nasAddress?: string; nasPort?: string; userName?: string;
  callingStationId?: string; calledStationId?: string; framedIp?: string; vlan?: number; vlanName?: string; start: string; updated: string;
  durationSeconds: number; inputOctets: number; outputOctets: number;
}

export interface RADIUSClient { name: string; address: string; requests: number; accepts: number; rejects: number; dropped: number; lastSeen?: string }

// What a page gets to draw itself.
export interface Context {
  // The element that the page fills.
  main: HTMLElement;
  // The parts of the address after the page's name.
  params: string[];
  // Aborted when the page is left.
  signal: AbortSignal;
  identity: Identity;
}
