#include "moe/daemon/peer_list.h"

#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstdint>
#include <set>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/synchronization/mutex.h"
#include "moe/base/log.h"
#include "moe/base/status_macros.h"
#include "moe/checkpoint/model_file.h"
#include "moe/daemon/listen_address.h"

namespace conclave {
namespace {

constexpr absl::string_view kDns = "dns:///", kFile = "file:///";
constexpr int64_t kFileBytesMax = 1 << 20;

// One target, taken apart.
struct Target {
  enum class Kind { kFixed, kDns, kFile } kind = Kind::kFixed;
  std::string text;  // as given
  HostPort address;  // of kFixed and kDns
  std::string path;  // of kFile
};

absl::StatusOr<Target> ParseTarget(const std::string& text) {
  Target target;
  target.text = text;
  absl::string_view rest = text;
  if (absl::ConsumePrefix(&rest, kFile)) {
    target.kind = Target::Kind::kFile;
    target.path = absl::StrCat("/", rest);
    if (rest.empty()) return absl::InvalidArgumentError(absl::StrCat("'", text, "' names no file"));
    return target;
  }
  if (absl::ConsumePrefix(&rest, kDns)) target.kind = Target::Kind::kDns;
  ASSIGN_OR_RETURN(target.address, ParseHostPort(rest));
  return target;
}

}  // namespace

absl::Status CheckPeers(absl::Span<const std::string> targets) {
  std::set<std::string> seen;
  for (const std::string& text : targets) {
    RETURN_IF_ERROR(ParseTarget(text).status());
    if (!seen.insert(text).second) return absl::InvalidArgumentError(absl::StrCat(text, " stands there twice"));
  }
  return absl::OkStatus();
}

bool PeersChange(absl::Span<const std::string> targets) {
  return std::any_of(targets.begin(), targets.end(), [](const std::string& text) {
    const absl::StatusOr<Target> target = ParseTarget(text);
    return target.ok() && target->kind != Target::Kind::kFixed;
  });
}

absl::StatusOr<std::vector<std::string>> ParsePeerFile(absl::string_view text, absl::string_view source) {
  std::vector<std::string> addresses;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    line = absl::StripAsciiWhitespace(line.substr(0, line.find('#')));
    if (line.empty()) continue;
    const absl::StatusOr<HostPort> address = ParseHostPort(line);
    if (!address.ok()) return absl::InvalidArgumentError(absl::StrCat(source, ": ", address.status().message()));
    addresses.push_back(std::string(line));
  }
  return addresses;
}

absl::StatusOr<std::vector<std::string>> PeerList::ResolveHost(const std::string& host) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(host.c_str(), nullptr, &hints, &found);
  if (error == EAI_NONAME || error == EAI_NODATA) return std::vector<std::string>();
  if (error != 0) return absl::UnavailableError(gai_strerror(error));
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, &freeaddrinfo);
  std::set<std::string> four, six;
  for (const addrinfo* each = found; each != nullptr; each = each->ai_next) {
    char text[NI_MAXHOST];
    if (getnameinfo(each->ai_addr, each->ai_addrlen, text, sizeof(text), nullptr, 0, NI_NUMERICHOST) != 0) continue;
    (each->ai_family == AF_INET ? four : six).insert(text);
  }
  const std::set<std::string>& chosen = four.empty() ? six : four;
  return std::vector<std::string>(chosen.begin(), chosen.end());
}

namespace {

class PeerListImpl final : public PeerList {
 public:
  PeerListImpl(const std::vector<std::string>& targets, absl::Duration interval, Resolve resolve)
      : interval_(interval), resolve_(std::move(resolve)), changes_(PeersChange(targets)) {
    for (const std::string& text : targets) targets_.push_back({*ParseTarget(text), {}, absl::OkStatus()});
    LookUp();
    if (changes_) thread_ = std::thread([this] { Run(); });
  }

  ~PeerListImpl() override {
    {
      absl::MutexLock lock(&mutex_);
      ending_ = true;
    }
    if (thread_.joinable()) thread_.join();
  }

  std::vector<std::string> Addresses() const override {
    absl::MutexLock lock(&mutex_);
    return addresses_;
  }

  bool changes() const override { return changes_; }

 private:
  struct Looked {
    Target target;
    std::vector<std::string> addresses;  // found last
    absl::Status status;                 // of the last time
  };

  absl::StatusOr<std::vector<std::string>> Find(const Target& target) const {
    if (target.kind == Target::Kind::kFixed) return std::vector<std::string>{target.text};
    if (target.kind == Target::Kind::kFile) {
      ASSIGN_OR_RETURN(const std::string text, ReadTextFile(target.path, kFileBytesMax));
      ASSIGN_OR_RETURN(std::vector<std::string> addresses, ParsePeerFile(text, target.path));
      std::sort(addresses.begin(), addresses.end());
      return addresses;
    }
    ASSIGN_OR_RETURN(std::vector<std::string> addresses, resolve_(target.address.host));
    for (std::string& address : addresses) address = JoinHostPort(address, target.address.port);
    std::sort(addresses.begin(), addresses.end());
    return addresses;
  }

  void LookUp() {
    std::vector<std::string> all;
    std::set<std::string> seen;
    for (Looked& looked : targets_) {
      absl::StatusOr<std::vector<std::string>> found = Find(looked.target);
      if (!found.ok() && found.status() != looked.status) {
        LogWarning(absl::StrCat(looked.target.text, ": ", found.status().message(), "; ", looked.addresses.size(),
                                " peers stay as they were"));
      }
      looked.status = found.status();
      if (found.ok()) looked.addresses = *std::move(found);
      for (const std::string& address : looked.addresses) {
        if (seen.insert(address).second) all.push_back(address);
      }
    }
    absl::MutexLock lock(&mutex_);
    if (changes_ && all != addresses_) LogInfo(absl::StrCat("peers are now: ", absl::StrJoin(all, ", ")));
    addresses_ = std::move(all);
  }

  void Run() {
    while (true) {
      {
        absl::MutexLock lock(&mutex_);
        if (mutex_.AwaitWithTimeout(absl::Condition(&ending_), interval_)) return;
      }
      LookUp();
    }
  }

  const absl::Duration interval_;
  const Resolve resolve_;
  const bool changes_;
  std::vector<Looked> targets_;  // the constructor's, then the thread's
  mutable absl::Mutex mutex_;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::string> addresses_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace

std::unique_ptr<PeerList> PeerList::Start(const std::vector<std::string>& targets, absl::Duration interval,
                                          Resolve resolve) {
  return std::make_unique<PeerListImpl>(targets, interval, std::move(resolve));
}

}  // namespace conclave
