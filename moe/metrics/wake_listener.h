// Ends the wait of a thread that polls a listening port.
#ifndef CONCLAVE_MOE_METRICS_WAKE_LISTENER_H_
#define CONCLAVE_MOE_METRICS_WAKE_LISTENER_H_

#include <string>

namespace conclave {

// Opens a connection to `address` (IP:port) and closes it at once; errors do not matter and are not reported.
void WakeListener(const std::string& address);

}  // namespace conclave

#endif  // CONCLAVE_MOE_METRICS_WAKE_LISTENER_H_
