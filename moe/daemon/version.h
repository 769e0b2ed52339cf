// The version of the binaries: what --version prints.
#ifndef CONCLAVE_MOE_DAEMON_VERSION_H_
#define CONCLAVE_MOE_DAEMON_VERSION_H_

namespace conclave {

inline constexpr char kVersion[] = "0.1.0";

}  // namespace conclave

#endif  // CONCLAVE_MOE_DAEMON_VERSION_H_
