// Where the peers of a process are: at fixed addresses, behind a DNS name, or in a file. The last two are looked up
// again and again, so that peers may come and go while the process runs.
#ifndef CONCLAVE_MOE_DAEMON_PEER_LIST_H_
#define CONCLAVE_MOE_DAEMON_PEER_LIST_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"

namespace conclave {

// INVALID_ARGUMENT quotes a target that is none of "host:port", "dns:///host:port" and "file:///path", or that stands
// there twice.
absl::Status CheckPeers(absl::Span<const std::string> targets);

// Whether any of them may name other peers later than now.
bool PeersChange(absl::Span<const std::string> targets);

// Who is there now.
class PeerList {
 public:
  // All addresses of a name, numeric and without ports; empty where the name has none. UNAVAILABLE: nobody can say.
  using Resolve = std::function<absl::StatusOr<std::vector<std::string>>(const std::string& host)>;

  // Looks all targets up once, and from then on in a thread of its own, `interval` after `interval`, where any of them
  // can change. REQUIRES: CheckPeers is OK
  static std::unique_ptr<PeerList> Start(const std::vector<std::string>& targets, absl::Duration interval,
                                         Resolve resolve = ResolveHost);
  virtual ~PeerList() = default;

  // host:port of every peer, each once: those of each target in the order of the targets, and within one in the order
  // of their text. A target that cannot be looked up keeps the peers that it had. Thread-safe; never blocks.
  virtual std::vector<std::string> Addresses() const = 0;
  // Whether Addresses may ever change.
  virtual bool changes() const = 0;

  // IPv4 addresses where the name has any, else IPv6 ones: a peer with both counts once.
  static absl::StatusOr<std::vector<std::string>> ResolveHost(const std::string& host);
};

// The addresses in a text with one host:port a line; what follows a '#' is a comment. INVALID_ARGUMENT names `source`
// and quotes a line that is none.
absl::StatusOr<std::vector<std::string>> ParsePeerFile(absl::string_view text, absl::string_view source);

}  // namespace conclave

#endif  // CONCLAVE_MOE_DAEMON_PEER_LIST_H_
