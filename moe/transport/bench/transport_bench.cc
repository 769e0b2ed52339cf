// transport_bench [--rounds N] [--busy] [--checksums] [--wires shared|tcp] [--rows N] [--only bare|ours|grpc]: an echo
// of rows through our transports, side by side with a bare ucp_am echo (and one, "bare+out", that also brings the reply
// to where the caller wants it). The last three flags narrow it down, for profiles.
//
// Each row goes to one expert, which gives it back: as many bytes there as back. Server and client are two processes.
// Variants take turns, a few hundred round trips at a time, so that whatever disturbs the machine disturbs all. With
// --busy, a process for each core computes meanwhile.
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "moe/base/check.h"
#include "moe/base/log.h"
#include "moe/tensor/buffer.h"
#include "moe/transport/bench/bare_echo.h"
#include "moe/transport/copy_rows.h"
#include "moe/transport/grpc/expert_grpc_service.h"
#include "moe/transport/grpc/grpc_data_plane_client.h"
#include "moe/transport/grpc/grpc_transport.h"
#include "moe/transport/ucx/ucx_expert_server.h"
#include "moe/transport/ucx/ucx_transport.h"

namespace conclave {
namespace {

constexpr int kHidden = 7168;  // of BF16: a row is 14 KiB
// Longer than the bare echo's server spins on (2 ms): whose turn it was leaves the cores to the next.
constexpr absl::Duration kSettle = absl::Milliseconds(4);

// Every expert is the identity.
class EchoHandler final : public ExpertHandler {
 public:
  ShardDescription Describe() const override {
    ShardDescription description;
    description.name = "echo";
    return description;
  }
  absl::Status Run(const ExpertCall& call, MatView out) override {
    CopyRows(call.rows, out);
    return absl::OkStatus();
  }
};

// Never returns: serves until it is killed. Writes the addresses, one a line.
[[noreturn]] void Serve(int pipe) {
  EchoHandler handler;
  prctl(PR_SET_PDEATHSIG, SIGKILL);  // however the bench ends
  std::vector<std::unique_ptr<BareEchoServer>> bare;
  std::vector<std::unique_ptr<UcxExpertServer>> ucx;
  std::vector<std::unique_ptr<GrpcExpertServer>> grpc;
  std::string text;
  for (const UcxLinks links : {UcxLinks::kAuto, UcxLinks::kTcp}) {
    UcxExpertServerOptions options;
    options.worker.links = links;
    auto server = UcxExpertServer::Start(options);
    CONCLAVE_CHECK_OK(server.status());
    ucx.push_back(*std::move(server));
    ucx.back()->SetHandler(&handler);
    auto control = GrpcExpertServer::Start("127.0.0.1:0", handler, ucx.back().get());
    CONCLAVE_CHECK_OK(control.status());
    grpc.push_back(*std::move(control));
    bare.push_back(std::make_unique<BareEchoServer>(links));
    absl::StrAppend(&text, grpc.back()->address(), " ", bare.back()->address(), " ");
  }
  CONCLAVE_CHECK(write(pipe, text.data(), text.size()) == static_cast<ssize_t>(text.size()));
  close(pipe);
  while (true) pause();
}

// One call of `rows` rows with its memory.
struct EchoCall {
  explicit EchoCall(int rows) : in(DType::kBF16, rows, kHidden), out(DType::kBF16, rows, kHidden) {
    std::memset(in.view().data, 0x3c, static_cast<size_t>(in.bytes()));
    for (int i = 0; i <= rows; ++i) offsets.push_back(static_cast<uint32_t>(i));
    experts.assign(rows, 0);
    call.rows = in.view();
    call.row_offsets = offsets;
    call.experts = experts;
  }
  void RoundTrip(Transport& transport) {
    bool done = false;
    static uint64_t last_call_id = 0;  // a shard takes none twice
    call.call_id = ++last_call_id;
    call.deadline = absl::Now() + absl::Seconds(20);
    transport.Call(ShardId{0}, call, out.view(), [&](const absl::Status& status) {
      CONCLAVE_CHECK_OK(status);
      done = true;
    });
    while (!done) transport.Progress(absl::Seconds(1));
  }
  MatBuffer in, out;
  std::vector<uint32_t> offsets;
  std::vector<int32_t> experts;
  ExpertCall call;
};

struct Variant {
  std::string name;
  std::function<void(EchoCall&)> round_trip;
  std::vector<double> us;
  double At(double quantile) const { return us[static_cast<size_t>(quantile * static_cast<double>(us.size() - 1))]; }
};

void Measure(std::vector<Variant>& variants, int rows, int rounds) {
  EchoCall call(rows);
  const int each = rows > 20 ? 60 : 300;
  for (int round = -1; round < rounds; ++round) {  // the first round warms up
    for (Variant& variant : variants) {
      absl::SleepFor(kSettle);
      // The first calls of a turn find both ends asleep, perhaps on one core; they are not measured.
      for (int i = 0; i < each; ++i) variant.round_trip(call);
      for (int i = 0; i < each; ++i) {
        const int64_t begin = absl::GetCurrentTimeNanos();
        variant.round_trip(call);
        if (round >= 0) variant.us.push_back(static_cast<double>(absl::GetCurrentTimeNanos() - begin) / 1000);
      }
    }
  }
  for (Variant& variant : variants) std::sort(variant.us.begin(), variant.us.end());
}

void Report(const char* wires, int rows, const std::vector<Variant>& variants) {
  for (const Variant& variant : variants) {
    std::printf("%-14s %7.0f KB  %-8s p50 %8.1f us  p99 %8.1f us", wires, rows * kHidden * 2 / 1000.0,
                variant.name.c_str(), variant.At(0.5), variant.At(0.99));
    if (&variant != &variants[0]) {
      std::printf("   %5.2f x %s", variant.At(0.5) / variants[0].At(0.5), variants[0].name.c_str());
    }
    std::printf("\n");
  }
  std::fflush(stdout);
}

pid_t Burn() {
  const pid_t pid = fork();
  if (pid != 0) return pid;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  for (volatile double x = 1;;) x = x * 1.0000001 + 1e-9;
}

struct Flags {
  int rounds = 7;
  bool busy = false, checksums = false;
  std::string wires, only;  // empty: all
  std::vector<int> rows = {1, 18, 73};
};

void Run(const std::vector<std::string>& addresses, const Flags& flags) {
  for (const UcxLinks links : {UcxLinks::kAuto, UcxLinks::kTcp}) {
    const bool tcp = links == UcxLinks::kTcp;
    if (!flags.wires.empty() && (flags.wires == "tcp") != tcp) continue;
    const std::string& control = addresses[tcp ? 2 : 0];
    UcxTransportOptions options;
    options.worker.links = links;
    options.checksum = flags.checksums;
    auto ucx = NewUcxTransport(1, NewGrpcDataPlaneClient({control}), options);
    CONCLAVE_CHECK_OK(ucx.status());
    GrpcTransportOptions grpc_options;
    grpc_options.checksum = flags.checksums;
    const auto grpc = NewGrpcTransport({control}, grpc_options);
    // Only where it is measured: UCX's own thread is busy with a connection that nobody progresses.
    std::unique_ptr<BareEchoClient> bare;
    const auto bare_echo = [&](EchoCall& call, void* out) {
      if (bare == nullptr) bare = std::make_unique<BareEchoClient>(links, addresses[tcp ? 3 : 1]);
      bare->RoundTrip(call.in.view().data, call.in.bytes(), out);
    };
    for (const int rows : flags.rows) {
      std::vector<Variant> variants(4);
      variants[0] = {"bare ucp", [&](EchoCall& call) { bare_echo(call, nullptr); }, {}};
      variants[1] = {"bare+out", [&](EchoCall& call) { bare_echo(call, call.out.view().data); }, {}};
      variants[2] = {"ours ucx", [&](EchoCall& call) { call.RoundTrip(**ucx); }, {}};
      variants[3] = {"grpc", [&](EchoCall& call) { call.RoundTrip(*grpc); }, {}};
      if (!flags.only.empty()) {
        variants.erase(std::remove_if(variants.begin(), variants.end(),
                                      [&](const Variant& variant) { return variant.name.rfind(flags.only, 0) != 0; }),
                       variants.end());
        CONCLAVE_CHECK(!variants.empty()) << "--only takes bare, ours or grpc";
      }
      Measure(variants, rows, flags.rounds);
      Report(tcp ? "tcp" : (*ucx)->Wires(ShardId{0}).c_str(), rows, variants);
    }
  }
}

Flags ParseFlags(int argc, char** argv) {
  Flags flags;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--busy" || name == "--checksums") {
      (name == "--busy" ? flags.busy : flags.checksums) = true;
      continue;
    }
    CONCLAVE_CHECK(i + 1 < argc) << name << " is unknown, or its value is missing";
    const char* const value = argv[++i];
    if (name == "--rounds") flags.rounds = std::max(1, std::atoi(value));
    if (name == "--rows") flags.rows = {std::max(1, std::atoi(value))};
    if (name == "--wires") flags.wires = value;
    if (name == "--only") flags.only = value;
  }
  return flags;
}

int Main(int argc, char** argv) {
  const Flags flags = ParseFlags(argc, argv);
  SetLogLevel(LogLevel::kError);
  int ends[2];
  CONCLAVE_CHECK(pipe(ends) == 0);
  const pid_t server = fork();  // before any thread is started
  if (server == 0) Serve(ends[1]);
  close(ends[1]);
  std::vector<pid_t> children = {server};
  for (unsigned core = 0; flags.busy && core < std::thread::hardware_concurrency(); ++core) children.push_back(Burn());
  std::string text;
  char buffer[1024];
  for (ssize_t got = 0; (got = read(ends[0], buffer, sizeof(buffer))) > 0;) text.append(buffer, got);
  const std::vector<std::string> addresses = absl::StrSplit(text, ' ', absl::SkipEmpty());
  CONCLAVE_CHECK(addresses.size() == 4) << "the server did not start";
  std::printf("cores are %s\n", flags.busy ? "busy" : "idle");
  Run(addresses, flags);
  for (const pid_t child : children) kill(child, SIGKILL);
  while (wait(nullptr) > 0) {
  }
  return 0;
}

}  // namespace
}  // namespace conclave

int main(int argc, char** argv) { return conclave::Main(argc, argv); }
