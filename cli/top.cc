// `conclave top`: who serves, which shards work, and how many tokens each expert of each layer gets, live.
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "cli/cluster_access.h"
#include "cli/cluster_file.h"
#include "cli/command.h"
#include "cli/top_view.h"
#include "gateway/cluster/cluster_snapshot.h"
#include "moe/base/status_macros.h"
#include "moe/daemon/tls.h"

namespace conclave {
namespace {

constexpr absl::Duration kTimeout = absl::Seconds(2);
// Lines of the view beside shards and layers.
constexpr int kOtherLines = 10;

volatile sig_atomic_t interrupted = 0;
void OnInterrupt(int) { interrupted = 1; }

struct Size {
  int columns = 100, rows = 1000;
};

Size TerminalSize() {
  winsize size{};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return {};
  return {size.ws_col, size.ws_row};
}

class TopCommand final : public Command {
 public:
  std::string name() const override { return "top"; }
  std::string summary() const override { return "watch a cluster: attention services, shards, every expert"; }

  void Declare(CommandFlags& flags) override {
    access_.Declare(flags, "gRPC addresses of the attention services, with commas between them", "router");
    CommandFlag& interval = flags.Add("interval", &interval_seconds_, "SECONDS", "time between two looks");
    interval.minimum = 0.1;
    interval.maximum = 3600;
    flags.Add("once", &once_, "", "look twice, one interval apart, print what happened between, and end");
    flags.AddOutput(&output_);
  }

  absl::Status Run(const CommandContext&) override {
    RETURN_IF_ERROR(access_.Validate());
    ASSIGN_OR_RETURN(const std::vector<std::string> addresses, Addresses());
    ASSIGN_OR_RETURN(auto credentials, NewChannelCredentials(access_.tls));
    const auto probe = ClusterProbe::Create([addresses] { return addresses; }, std::move(credentials));
    std::optional<ClusterSnapshot> before = probe->Take(kTimeout);
    RETURN_IF_ERROR(CheckSomebodyAnswers(*before));
    const bool json = output_ == "json";
    const bool live = !once_ && !json;
    const bool terminal = isatty(STDOUT_FILENO) == 1;
    if (live) {
      signal(SIGINT, OnInterrupt);
      signal(SIGTERM, OnInterrupt);
      Show(TopView(nullptr, *before, TerminalSize().columns, LayersMax(*before), terminal), terminal, "since start");
    }
    while (interrupted == 0) {
      Wait();
      if (interrupted != 0) break;
      ClusterSnapshot now = probe->Take(kTimeout);
      if (json) {
        std::cout << TopJson(&*before, now) << "\n";
      } else {
        const std::string view = TopView(&*before, now, TerminalSize().columns, LayersMax(now), terminal);
        Show(view, terminal && live, absl::StrFormat("in the last %g s", interval_seconds_));
      }
      if (!live) break;
      before = std::move(now);
    }
    return absl::OkStatus();
  }

 private:
  absl::StatusOr<std::vector<std::string>> Addresses() const {
    if (!access_.address.empty())
      return std::vector<std::string>(absl::StrSplit(access_.address, ',', absl::SkipEmpty()));
    ASSIGN_OR_RETURN(const std::vector<ClusterProcess> processes, access_.Processes());
    std::vector<std::string> addresses;
    for (const ClusterProcess& process : processes) {
      if (process.role == "router") addresses.push_back(process.grpc);
    }
    if (addresses.empty()) return absl::NotFoundError(absl::StrCat("no attention service in ", access_.run_directory));
    return addresses;
  }

  static absl::Status CheckSomebodyAnswers(const ClusterSnapshot& snapshot) {
    for (const RouterSnapshot& router : snapshot.routers) {
      if (router.error.ok()) return absl::OkStatus();
    }
    const RouterSnapshot& first = snapshot.routers.front();
    if (absl::IsUnimplemented(first.error)) {
      return absl::UnavailableError(absl::StrCat("what answers at ", first.address, " is no attention service of this ",
                                                 "version: top asks those, not gateways"));
    }
    return absl::UnavailableError(
        absl::StrCat("no attention service answers at ", first.address, ": ", std::string(first.error.message())));
  }

  static int LayersMax(const ClusterSnapshot& snapshot) {
    int shards = 1;
    for (const RouterSnapshot& router : snapshot.routers) shards = std::max(shards, router.experts.shards_size());
    return std::max(1, TerminalSize().rows - shards - static_cast<int>(snapshot.routers.size()) - kOtherLines);
  }

  static void Show(const std::string& view, bool rewrite, const std::string& period) {
    if (rewrite) std::cout << "\033[H\033[2J";
    std::cout << view << "\nrows and tokens " << period << (rewrite ? "; Ctrl-C ends" : "") << std::endl;
  }

  // Sleeps for one interval; a signal ends it early.
  void Wait() const { poll(nullptr, 0, static_cast<int>(interval_seconds_ * 1000)); }

  ClusterAccess access_;
  std::string output_ = "text";
  double interval_seconds_ = 1;
  bool once_ = false;
};

}  // namespace

std::unique_ptr<Command> NewTopCommand() { return std::make_unique<TopCommand>(); }

}  // namespace conclave
