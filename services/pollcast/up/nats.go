package up

import (
	"crypto/rand"
	"errors"
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

// readersAccount is the NATS account of everybody else on this machine.
const readersAccount = "READERS"

// startNATS starts the server on the address of the configured URL, with
// JetStream in dir. A client without credentials may read and not write. The
// returned configuration is that of the services inside. Other machines reach
// the server only if public is true.
func startNATS(c bus.Config, dir string, public bool, log *slog.Logger) (*embedded, bus.Config, error) {
	names, err := bus.NewNames(c.Prefix)
	if err != nil {
		return nil, c, err
	}
	host, port, err := natsAddress(c.URL, public)
	if err != nil {
		return nil, c, err
	}
	inside, secret := "pollcast", rand.Text()
	c.User, c.Password, c.Creds = inside, config.NewSecret(secret), ""
	// The secret is random, so a higher cost would add nothing.
	hashed, err := bcrypt.GenerateFromPassword([]byte(secret), bcrypt.MinCost)
	if err != nil {
		return nil, c, fmt.Errorf("hash the password of NATS: %w", err)
	}
	services, readers, err := accounts(names)
	if err != nil {
		return nil, c, fmt.Errorf("make the accounts of NATS: %w", err)
	}
	anonymous, err := anonymousReader(names, readers)
	if err != nil {
		return nil, c, fmt.Errorf("make the reading user of NATS: %w", err)
	}
	srv, err := server.NewServer(&server.Options{
		ServerName: "pollcast", Host: host, Port: port,
		JetStream: true, StoreDir: dir,
		// The stream's own limit, and room for the leases and the server's files.
		JetStreamMaxStore: int64(c.MaxBytes) + 256<<20, JetStreamMaxMemory: 64 << 20,
		NoSigs:     true,
		Accounts:   []*server.Account{services, readers},
		Users:      []*server.User{{Username: inside, Password: string(hashed), Account: services}},
		Nkeys:      []*server.NkeyUser{anonymous},
		NoAuthUser: anonymous.Nkey,
	})
	if err != nil {
		return nil, c, fmt.Errorf("start NATS: %w", err)
	}
	srv.SetLoggerV2(&natsLog{log}, false, false, false)
	srv.Start()
	if !srv.ReadyForConnections(10 * time.Second) {
		srv.Shutdown()
		return nil, c, fmt.Errorf("start NATS on port %d: not ready within 10 s", port)
	}
	// With an account beside the global one, the server enables JetStream only
	// where the account asks for it, which only a configuration file can express.
	if err := srv.GlobalAccount().EnableJetStream(nil, nil); err != nil {
		srv.Shutdown()
		srv.WaitForShutdown()
		return nil, c, fmt.Errorf("enable JetStream: %w", err)
	}
	return &embedded{srv}, c, nil
}

// natsAddress returns where the server listens.
func natsAddress(natsURL string, public bool) (host string, port int, err error) {
	fail := func(err error) (string, int, error) { return "", 0, fmt.Errorf("nats.url %q: %w", natsURL, err) }
	u, err := url.Parse(natsURL)
	if err != nil {
		return fail(err)
	}
	host, portText, err := net.SplitHostPort(u.Host)
	if err != nil {
		return fail(err)
	}
	if port, err = strconv.Atoi(portText); err != nil {
		return fail(err)
	}
	if ip := net.ParseIP(host); !public && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fail(errors.New("every machine that reaches this address could read all values without a password: " +
			"use 127.0.0.1, or allow it with -public-nats"))
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	return host, port, nil
}

// accounts returns an account for the services, with JetStream, and one for
// readers, which imports what is live and the last message of a subject.
//
// Permissions alone cannot keep a reader from writing: NATS does not check the
// reply subject of a request, and JetStream answers to any subject of the
// account of the client. The services use the global account, in which earlier
// versions have stored the stream.
func accounts(names bus.Names) (services, readers *server.Account, err error) {
	services, readers = server.NewAccount("$G"), server.NewAccount(readersAccount)
	last := lastValue(names)
	// A reader could still name what is live as the reply subject, and deceive
	// the other readers. The mapping takes such an answer away; what is imported
	// does not pass it.
	return services, readers, errors.Join(
		services.AddStreamExport(names.LiveAll(), []*server.Account{readers}),
		services.AddServiceExport(last, []*server.Account{readers}),
		readers.AddStreamImport(services, names.LiveAll(), ""),
		readers.AddServiceImport(services, last, last),
		readers.AddMapping(names.LiveAll(), names.Prefix()+".refused.>"),
	)
}

// lastValue matches the requests for the last message of a subject.
func lastValue(names bus.Names) string {
	return "$JS.API.DIRECT.GET." + names.Stream() + "." + names.InAll()
}

// anonymousReader returns the user of clients without credentials. It is an
// nkey whose seed nobody keeps: a user with a password needs it in plain text.
func anonymousReader(names bus.Names, readers *server.Account) (*server.NkeyUser, error) {
	key, err := nkeys.CreateUser()
	if err != nil {
		return nil, err
	}
	public, err := key.PublicKey()
	if err != nil {
		return nil, err
	}
	return &server.NkeyUser{Nkey: public, Account: readers, Permissions: &server.Permissions{
		Subscribe: &server.SubjectPermission{Allow: []string{names.LiveAll(), "_INBOX.>"}},
		Publish:   &server.SubjectPermission{Allow: []string{lastValue(names)}},
	}}, nil
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
