# Installs the command, its manual pages and the C header. Build first: cargo build --release
PREFIX = /usr/local
TARGET = target/release

install:
	install -D -m 755 $(TARGET)/portkeep $(DESTDIR)$(PREFIX)/bin/portkeep
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/man/man1 man/*.1
	install -D -m 644 bpf/portkeep.bpf.h $(DESTDIR)$(PREFIX)/include/portkeep.h

.PHONY: install
