// The file by which a process tells its parent and its tests where it listens.
#ifndef CONCLAVE_MOE_DAEMON_ADDRESS_FILE_H_
#define CONCLAVE_MOE_DAEMON_ADDRESS_FILE_H_

#include <string>

#include "absl/status/status.h"

namespace conclave {

// What the file says.
struct ProcessAddresses {
  std::string name;  // letters, digits, dots, dashes and underscores
  int pid = 0;
  std::string grpc;     // host:port
  std::string metrics;  // host:port, or empty: left out of the file
  std::string http;     // likewise
  std::string health = "";  // likewise
};

// Writes {"name": …, "pid": …, "grpc": …, "metrics": …, "http": …, "health": …} beside `path` and renames it there, so
// that a reader sees all of it or nothing. An error names the path and what the system said.
absl::Status WriteAddressFile(const std::string& path, const ProcessAddresses& addresses);

}  // namespace conclave

#endif  // CONCLAVE_MOE_DAEMON_ADDRESS_FILE_H_
