package bus

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

// A credentials file holds one of two things:
//
//   - The JWT of a user and the seed of its key, each in a block of its own, as
//     `nsc generate creds` writes it. The JWT goes to the server.
//   - The seed of a user's key alone. The public key goes to the server.
//
// In both cases the seed signs what the server sends, and never leaves the process.
// The client library would send any text that is in no block as a JWT, also a seed,
// and the first block of a file whatever it holds. So the file is read here.

// Errors of a credentials file.
var (
	errNoSeed = errors.New("it holds no user's key (a seed, which begins with SU)")
	errMixed  = errors.New("it holds more than a seed, and no JWT in a block of its own")
	errOther  = errors.New("it holds another login than before")
)

// credentials is what a file holds besides the seed: a JWT or a public key.
type credentials struct{ jwt, key string }

// readCredentials reads a file. The error names it, and none of its contents.
func readCredentials(name string) (c credentials, err error) {
	err = withFile(name, func(data []byte) error {
		pair, err := nkeys.ParseDecoratedUserNKey(data)
		text, _ := nkeys.ParseDecoratedJWT(data) // the first block, or everything
		if err != nil {
			return errNoSeed
		}
		defer pair.Wipe()
		switch {
		case isJWT(text):
			c.jwt = text
			return nil
		case !isSeed(text):
			return errMixed
		}
		c.key, err = pair.PublicKey()
		return err
	})
	return c, err
}

// sign signs a server's nonce with the seed in a file.
func sign(name string, nonce []byte) (signature []byte, err error) {
	err = withFile(name, func(data []byte) error {
		pair, err := nkeys.ParseDecoratedUserNKey(data)
		if err != nil {
			return errNoSeed
		}
		defer pair.Wipe()
		signature, err = pair.Sign(nonce)
		return err
	})
	return signature, err
}

// withFile calls use with what a file holds, and wipes that afterwards.
func withFile(name string, use func([]byte) error) error {
	data, err := os.ReadFile(name)
	if err == nil {
		err = use(data)
	}
	clear(data)
	if cause, ok := errors.AsType[*os.PathError](err); ok {
		err = cause.Err
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// lineBreaks are skipped by the decoders of base32 and base64.
const lineBreaks = "\r\n"

// isJWT reports whether a text is a signed JWT: three parts in base64, of which the
// first is a JSON object.
func isJWT(text string) bool {
	if strings.ContainsAny(text, lineBreaks) {
		return false
	}
	parts := strings.Split(text, ".")
	for i, p := range parts {
		data, err := base64.RawURLEncoding.DecodeString(p)
		if err != nil || i == 0 && !json.Valid(data) {
			return false
		}
	}
	return len(parts) == 3
}

// isSeed reports whether a text is the seed of a key of any kind.
func isSeed(text string) bool {
	text = strings.TrimSpace(text)
	_, _, err := nkeys.DecodeSeed([]byte(text))
	return err == nil && !strings.ContainsAny(text, lineBreaks)
}

// login is how a connection proves who it is. The credentials file is read again
// whenever the connection is made. If it holds another kind of login or another
// public key by then (errOther), the connection is replaced.
func (c *Conn) login() ([]nats.Option, error) {
	name := c.opts.Creds
	switch {
	case c.opts.User != "":
		return []nats.Option{nats.UserInfo(c.opts.User, c.opts.Password.Reveal())}, nil
	case name == "":
		return nil, nil
	}
	now, err := readCredentials(name)
	if err != nil {
		return nil, fmt.Errorf("nats.credentials: %w", err)
	}
	signer := func(nonce []byte) ([]byte, error) {
		latest, err := readCredentials(name)
		if err == nil && latest.key != now.key {
			return nil, fmt.Errorf("%s: %w", name, errOther)
		} else if err != nil {
			return nil, err
		}
		return sign(name, nonce)
	}
	if now.jwt == "" {
		return []nats.Option{nats.Nkey(now.key, signer)}, nil
	}
	token := func() (string, error) {
		latest, err := readCredentials(name)
		if err == nil && latest.jwt == "" {
			return "", fmt.Errorf("%s: %w", name, errOther)
		}
		return latest.jwt, err
	}
	return []nats.Option{nats.UserJWT(token, signer)}, nil
}

// checkLogin reports mistakes in how a service proves who it is.
func (c *Config) checkLogin(report func(path, problem, fix string)) {
	if c.User != "" && c.Creds != "" {
		report("credentials", "both a user and a credentials file are set", "keep one of them")
	}
	if c.User == "" && c.Password.Reveal() != "" {
		report("user", "a password is set, and nobody whose it is", "write the user's name, or remove the password")
	}
	const isKey = "it is the seed of a key, which would be sent to the server"
	const useFile = "put the seed into a file, and name the file as nats.credentials"
	if isSeed(c.User) {
		report("user", isKey, useFile)
	}
	if isSeed(c.Password.Reveal()) {
		report("password", isKey, useFile)
	}
	for _, text := range strings.Split(c.URL, ",") {
		u, err := url.Parse(strings.TrimSpace(text))
		if err != nil || u.User == nil {
			continue
		}
		password, _ := u.User.Password()
		if isSeed(u.User.Username()) || isSeed(password) {
			report("url", isKey, useFile)
		} else if c.Creds != "" {
			report("credentials", "both a user in nats.url and a credentials file are set", "keep one of them")
		}
	}
	if c.Creds != "" {
		if _, err := readCredentials(c.Creds); err != nil {
			report("credentials", err.Error(),
				"name a file that `nsc generate creds` made, or one with the seed of a user's nkey")
		}
	}
}
