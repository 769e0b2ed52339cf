#include "moe/kernels/accelerator/device_facts.h"

#include <string>

#include "gtest/gtest.h"

namespace conclave {
namespace {

DeviceFacts Hopper() {
  DeviceFacts facts;
  facts.driver = 13000;
  facts.devices = 2;
  facts.name = "NVIDIA H200";
  facts.major = 9;
  return facts;
}

// The sentence that follows the flag's name.
std::string Refusal(const DeviceFacts& facts, int ordinal = 0) {
  const absl::Status status = CheckDevice(facts, ordinal);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  const std::string message(status.message()), flag = "--device cuda: ";
  EXPECT_EQ(message.substr(0, flag.size()), flag);
  return message.size() < flag.size() ? "" : message.substr(flag.size());
}

TEST(CheckDeviceTest, AHopperGpuUnderANewEnoughDriverIsTaken) {
  EXPECT_EQ(CheckDevice(Hopper(), 0), absl::OkStatus());
  EXPECT_EQ(CheckDevice(Hopper(), 1), absl::OkStatus());
  DeviceFacts later = Hopper();
  later.driver = 13020;
  EXPECT_EQ(CheckDevice(later, 0), absl::OkStatus());
}

TEST(CheckDeviceTest, SaysThatThereIsNoDriver) {
  EXPECT_EQ(Refusal({}), "no NVIDIA driver is installed; use --device cpu");
}

TEST(CheckDeviceTest, SaysThatTheDriverIsTooOldBeforeItBelievesIt) {
  DeviceFacts facts = Hopper();
  facts.driver = 12080;
  facts.devices = 0;
  facts.devices_error = "CUDA driver version is insufficient for CUDA runtime version";
  EXPECT_EQ(Refusal(facts),
            "the NVIDIA driver supports CUDA 12.8, this program needs 13.0: update the driver (580 or later)");
}

TEST(CheckDeviceTest, SaysThatThereIsNoGpuOrNotThatOne) {
  DeviceFacts facts = Hopper();
  EXPECT_EQ(Refusal(facts, 2), "there is no GPU 2: this machine has 2");
  facts.devices = 0;
  facts.devices_error = "no CUDA-capable device is detected";
  EXPECT_EQ(Refusal(facts), "no GPU is found (no CUDA-capable device is detected); use --device cpu");
}

TEST(CheckDeviceTest, SaysThatAGpuDoesNotAnswer) {
  DeviceFacts facts = Hopper();
  facts.answer_error = "device busy or unavailable";
  EXPECT_EQ(Refusal(facts, 1), "GPU 1 does not answer: device busy or unavailable");
}

TEST(CheckDeviceTest, TakesOtherGpusForPlainKernelsAndRefusesThoseThatAreTooOld) {
  DeviceFacts facts = Hopper();
  for (const int major : {8, 10, 12}) {
    facts.major = major;
    EXPECT_EQ(CheckDevice(facts, 0), absl::OkStatus()) << major;
  }
  facts.name = "Tesla T4";
  facts.major = 7;
  facts.minor = 5;
  EXPECT_EQ(Refusal(facts),
            "GPU 0, Tesla T4, has compute capability 7.5; this program needs 8.0 or later (9.0, Hopper, for its fast "
            "kernels); use --device cpu");
}

}  // namespace
}  // namespace conclave
