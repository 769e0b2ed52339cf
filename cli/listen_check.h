// Whether a port of this machine is free, asked before a process is started that would need it.
#ifndef CONCLAVE_CLI_LISTEN_CHECK_H_
#define CONCLAVE_CLI_LISTEN_CHECK_H_

namespace conclave {

// Listens on 127.0.0.1:`port` and lets go again; 0: any free port.
bool CanListenOnLoopback(int port);

}  // namespace conclave

#endif  // CONCLAVE_CLI_LISTEN_CHECK_H_
