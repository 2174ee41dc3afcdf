package up

import (
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/config"
	"golang.org/x/crypto/bcrypt"
)

// embedded is the NATS server inside this process.
type embedded struct{ server *server.Server }

// startNATS starts the server on the address of the configured URL, with
// JetStream in dir. Whoever connects without credentials may read and not
// write; the returned configuration is that of the services inside.
func startNATS(c bus.Config, dir string, log *slog.Logger) (*embedded, bus.Config, error) {
	names, err := bus.NewNames(c.Prefix)
	if err != nil {
		return nil, c, err
	}
	u, err := url.Parse(c.URL)
	if err != nil {
		return nil, c, fmt.Errorf("nats.url %q: %w", c.URL, err)
	}
	host, portText, err := net.SplitHostPort(u.Host)
	if err != nil {
		return nil, c, fmt.Errorf("nats.url %q: %w", c.URL, err)
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		return nil, c, fmt.Errorf("nats.url %q: %w", c.URL, err)
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	inside, secret := "pollcast", rand.Text()
	c.User, c.Password, c.Creds = inside, config.NewSecret(secret), ""
	stream := names.Stream()
	hashed, err := bcrypt.GenerateFromPassword([]byte(secret), bcrypt.MinCost) // the secret is random: cost buys nothing
	if err != nil {
		return nil, c, fmt.Errorf("hash the password of NATS: %w", err)
	}
	// Who says nothing is taken for this user. An nkey, whose secret nobody
	// keeps: a password would have to stand here in plain text for that.
	anybody, err := nkeys.CreateUser()
	if err != nil {
		return nil, c, fmt.Errorf("make the reading user of NATS: %w", err)
	}
	reader, err := anybody.PublicKey()
	if err != nil {
		return nil, c, fmt.Errorf("make the reading user of NATS: %w", err)
	}
	srv, err := server.NewServer(&server.Options{
		ServerName: "pollcast", Host: host, Port: port,
		JetStream: true, StoreDir: dir,
		// The stream's own limit, and room for the leases and the server's files.
		JetStreamMaxStore: int64(c.MaxBytes) + 256<<20, JetStreamMaxMemory: 64 << 20,
		NoSigs:     true,
		Users:      []*server.User{{Username: inside, Password: string(hashed)}},
		Nkeys:      []*server.NkeyUser{{Nkey: reader, Permissions: readOnly(names.LiveAll(), stream)}},
		NoAuthUser: reader,
	})
	if err != nil {
		return nil, c, fmt.Errorf("start NATS: %w", err)
	}
	srv.SetLoggerV2(&natsLog{log}, false, false, false)
	srv.Start()
	if !srv.ReadyForConnections(10 * time.Second) {
		srv.Shutdown()
		return nil, c, fmt.Errorf("start NATS on %s: not ready within 10 s", u.Host)
	}
	return &embedded{srv}, c, nil
}

// readOnly is what anybody on this machine may do: subscribe to what is live,
// and read the stream back.
func readOnly(live, stream string) *server.Permissions {
	return &server.Permissions{
		Subscribe: &server.SubjectPermission{Allow: []string{live, "_INBOX.>"}},
		Publish: &server.SubjectPermission{Allow: []string{
			"$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$JS.API.STREAM.INFO." + stream,
			"$JS.API.DIRECT.GET." + stream, "$JS.API.DIRECT.GET." + stream + ".>",
		}},
	}
}

func (e *embedded) addr() string { return e.server.Addr().String() }

func (e *embedded) stop() error {
	e.server.Shutdown()
	e.server.WaitForShutdown()
	return nil
}

// natsLog passes on what an operator must hear of the server; its chatter is
// for debugging.
type natsLog struct{ log *slog.Logger }

func (l *natsLog) Noticef(format string, v ...any) { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l *natsLog) Warnf(format string, v ...any) {
	l.log.Warn("the NATS server warns", "text", fmt.Sprintf(format, v...))
}
func (l *natsLog) Fatalf(format string, v ...any) { l.Errorf(format, v...) }
func (l *natsLog) Errorf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	if strings.Contains(text, " Violation - ") { // somebody's mistake, and no trouble
		l.log.Warn("a NATS client may not do what it tried", "text", text)
		return
	}
	l.log.Error("the NATS server reports an error", "text", text)
}
func (l *natsLog) Debugf(format string, v ...any) {}
func (l *natsLog) Tracef(format string, v ...any) {}
