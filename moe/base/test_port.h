// For tests: ports that stay theirs.
#ifndef CONCLAVE_MOE_BASE_TEST_PORT_H_
#define CONCLAVE_MOE_BASE_TEST_PORT_H_

#include <string>

namespace conclave {

// "127.0.0.1:<port>", another at every call. Nobody listens there until the test does, as often as it likes; until this
// process ends the system gives the port to nobody who asks for any free one, neither to listen nor to connect from,
// because a socket that is bound and does not listen holds it. Who listens there sets SO_REUSEADDR, as gRPC does by
// itself (and not SO_REUSEPORT, which would let two in). For what a server at port 0 cannot promise: that its port is
// still free once it has stopped, and that nobody answers there. Thread-safe.
std::string NewTestAddress();

}  // namespace conclave

#endif  // CONCLAVE_MOE_BASE_TEST_PORT_H_
