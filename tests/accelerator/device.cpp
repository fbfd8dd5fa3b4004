// A device of torch's, of its own kind: the CPU does its work at once, in memory that no operation of the CPU is given, and by
// the device's clock it is over later. The clock is one number that moves when work is launched or waited for, so that what is
// timed by it is exact.

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/GeneratorForPrivateuseone.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_as_complex_native.h>
#include <ATen/ops/view_as_real_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>

namespace {

constexpr auto KIND = c10::DeviceType::PrivateUse1;
const c10::Device DEVICE(KIND, 0);
const c10::DispatchKeySet KEYS(c10::DispatchKey::PrivateUse1);

// ---- the clock ----

struct Clock {
  std::mutex turn;
  double now = 0, each = 0;  // seconds; those that an operation takes
  int64_t launches = 0, waits = 0;
  std::map<c10::StreamId, double> busy;  // until when each stream works

  double until(c10::StreamId stream) {
    std::lock_guard<std::mutex> mine(turn);
    return std::max(now, busy[stream]);
  }
  void launch(c10::StreamId stream) {
    std::lock_guard<std::mutex> mine(turn);
    launches++;
    busy[stream] = std::max(now, busy[stream]) + each;
  }
  void wait(double until) {
    std::lock_guard<std::mutex> mine(turn);
    waits++;
    now = std::max(now, until);
  }
  void hold(c10::StreamId stream, double until) {
    std::lock_guard<std::mutex> mine(turn);
    busy[stream] = std::max(busy[stream], until);
  }
};
Clock the_clock;
thread_local c10::StreamId current = 0;
thread_local bool within = false;  // an operation that copies to the CPU and back

void launch() {
  if (!within) the_clock.launch(current);
}
void wait() {
  if (!within) the_clock.wait(the_clock.until(current));
}

// ---- memory, and its tensors ----

std::atomic<int64_t> held{0}, most{0};

struct Memory final : c10::Allocator {
  static constexpr size_t HEAD = 64;
  static void release(void* data) {
    auto* block = static_cast<char*>(data) - HEAD;
    held -= *reinterpret_cast<int64_t*>(block);
    std::free(block);
  }
  c10::DataPtr allocate(size_t size) override {
    void* block = nullptr;
    TORCH_CHECK(posix_memalign(&block, HEAD, size + HEAD) == 0, "out of memory");
    *static_cast<int64_t*>(block) = static_cast<int64_t>(size);
    held += static_cast<int64_t>(size);
    most = std::max(most.load(), held.load());
    auto* data = static_cast<char*>(block) + HEAD;
    return {data, data, &release, DEVICE};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, std::size_t size) const override { default_copy_data(to, from, size); }
};
Memory memory;

at::Tensor on_cpu(const at::Tensor& tensor) {  // the same memory
  const auto& storage = tensor.storage();
  c10::Storage shared(c10::Storage::use_byte_size_t(), storage.nbytes(),
                      c10::DataPtr(storage.mutable_data(), c10::Device(c10::kCPU)), nullptr, false);
  auto same = at::detail::make_tensor<c10::TensorImpl>(std::move(shared), c10::DispatchKeySet(c10::DispatchKey::CPU),
                                                       tensor.dtype());
  same.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
  if (tensor.is_conj()) same._set_conj(true);
  if (tensor.is_neg()) same._set_neg(true);
  return same;
}

at::Tensor on_device(const at::Tensor& tensor) {  // a copy
  auto copy = at::empty_strided(tensor.sizes(), tensor.strides(), tensor.options().device(DEVICE));
  on_cpu(copy).copy_(tensor);
  return copy;
}

std::optional<at::Tensor> on_cpu(const std::optional<at::Tensor>& tensor) {
  return tensor && tensor->defined() ? std::optional<at::Tensor>(on_cpu(*tensor)) : std::nullopt;
}

bool here(const at::Tensor& tensor) { return tensor.device().type() == KIND; }

// ---- random numbers ----

struct Generator final : at::CPUGeneratorImpl {
  at::Generator twin = at::detail::createCPUGenerator();  // that the CPU draws from
  Generator() {
    device_ = DEVICE;
    key_set_ = KEYS;
  }
  void set_current_seed(uint64_t seed) override { twin.set_current_seed(seed); }
  uint64_t current_seed() const override { return twin.current_seed(); }
  uint64_t seed() override { return twin.seed(); }
  void set_state(const c10::TensorImpl& state) override { twin.unsafeGetGeneratorImpl()->set_state(state); }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override { return twin.unsafeGetGeneratorImpl()->get_state(); }
};

const at::Generator& default_generator() {
  static const at::Generator generator = at::make_generator<Generator>();
  return generator;
}

// ---- what torch asks a device ----

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(c10::DeviceIndex) const override {}
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex) const override { return 0; }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex) const override { return 0; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override { return default_generator(); }
  at::Generator getNewGenerator(c10::DeviceIndex) const override { return at::make_generator<Generator>(); }
  at::Device getDeviceFromPtr(void*) const override { return DEVICE; }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t size) const override {
    auto larger = memory.allocate(size);
    std::memcpy(larger.get(), storage.data(), std::min(size, storage.nbytes()));
    storage.unsafeGetStorageImpl()->set_data_ptr_noswap(std::move(larger));
    storage.unsafeGetStorageImpl()->set_nbytes(size);
  }
};

struct Guard final : c10::impl::DeviceGuardImplInterface {
  static double& time_of(void* event) { return *static_cast<double*>(event); }
  static c10::Stream stream(c10::StreamId id) { return c10::Stream(c10::Stream::UNSAFE, DEVICE, id); }

  c10::DeviceType type() const override { return KIND; }
  c10::Device exchangeDevice(c10::Device) const override { return DEVICE; }
  c10::Device getDevice() const override { return DEVICE; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }

  c10::Stream getStream(c10::Device) const override { return stream(current); }
  c10::Stream getDefaultStream(c10::Device) const override { return stream(0); }
  c10::Stream getNewStream(c10::Device, int) const override {
    static std::atomic<c10::StreamId> made{0};
    return stream(++made);
  }
  c10::Stream exchangeStream(c10::Stream next) const override {
    auto former = stream(current);
    current = next.id();
    return former;
  }
  bool queryStream(const c10::Stream& of) const override { return the_clock.now >= the_clock.until(of.id()); }
  void synchronizeStream(const c10::Stream& of) const override { the_clock.wait(the_clock.until(of.id())); }
  void recordDataPtrOnStream(const c10::DataPtr&, const c10::Stream&) const override {}

  void record(void** event, const c10::Stream& on, const c10::DeviceIndex, const c10::EventFlag) const override {
    if (*event == nullptr) *event = new double(0);
    time_of(*event) = the_clock.until(on.id());
  }
  void block(void* event, const c10::Stream& on) const override {
    if (event != nullptr) the_clock.hold(on.id(), time_of(event));
  }
  bool queryEvent(void* event) const override { return event == nullptr || the_clock.now >= time_of(event); }
  void synchronizeEvent(void* event) const override {
    if (event != nullptr) the_clock.wait(time_of(event));
  }
  double elapsedTime(void* from, void* to, const c10::DeviceIndex) const override {
    return 1e3 * (time_of(to) - time_of(from));
  }
  void destroyEvent(void* event, const c10::DeviceIndex) const noexcept override { delete static_cast<double*>(event); }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

// ---- operations ----

bool takes_places_of_the_cpu(const std::string& name) {  // as those of a GPU do
  return name.rfind("aten::index", 0) == 0 || name.rfind("aten::_index", 0) == 0 || name.rfind("aten::_unsafe_index", 0) == 0;
}

bool has_a_shape_that_must_be_known(const std::string& name) {
  return name == "aten::nonzero" || name == "aten::masked_select" || name == "aten::_unique2" || name == "aten::equal";
}

// Whatever has no function of its own below.
void on_the_cpu(const c10::OperatorHandle& operation, torch::jit::Stack* stack) {
  const auto& arguments = operation.schema().arguments();
  const auto name = operation.schema().name();
  const auto first = stack->size() - arguments.size();
  bool ours = false, theirs = false;
  auto look = [&](const at::Tensor& tensor) {
    if (!tensor.defined()) return;
    ours |= here(tensor);
    theirs |= !here(tensor) && tensor.dim() > 0;  // a number may come from the CPU
  };
  for (size_t i = 0; i < arguments.size(); i++) {
    auto& value = (*stack)[first + i];
    if (arguments[i].name() == "generator") {
      const auto generator = value.isNone() ? default_generator() : value.toGenerator();
      if (generator.device().type() == KIND)
        value = c10::IValue(static_cast<Generator*>(generator.unsafeGetGeneratorImpl())->twin);
    } else if (value.isTensor()) {
      look(value.toTensor());
    } else if (value.isTensorList()) {
      for (const auto& tensor : value.toTensorVector()) look(tensor);
    }
  }
  TORCH_CHECK(!(ours && theirs) || takes_places_of_the_cpu(name), name,
              ": Expected all tensors to be on the same device, but found at least two devices.");
  launch();
  if (has_a_shape_that_must_be_known(name)) wait();
  const bool outermost = !within;
  within = true;
  try {
    at::native::cpu_fallback(operation, stack);
  } catch (...) {
    if (outermost) within = false;
    throw;
  }
  if (outermost) within = false;
}

using Sizes = c10::IntArrayRef;
using SymSizes = c10::SymIntArrayRef;
using Type = std::optional<at::ScalarType>;
using Layout = std::optional<at::Layout>;
using Place = std::optional<at::Device>;

at::Tensor empty(Sizes size, Type type, Layout, Place, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(size, &memory, KEYS, c10::dtype_or_default(type), format);
}

at::Tensor empty_strided(Sizes size, Sizes stride, Type type, Layout, Place, std::optional<bool>) {
  return at::detail::empty_strided_generic(size, stride, &memory, KEYS, c10::dtype_or_default(type));
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool non_blocking) {
  launch();
  if (!here(to) && !non_blocking) wait();
  (here(to) ? on_cpu(to) : to).copy_(here(from) ? on_cpu(from) : from);
  return to;
}

at::Tensor copy_from_and_resize(const at::Tensor& from, const at::Tensor& to) {
  at::native::resize_(to, from.sizes(), std::nullopt);
  return copy_from(from, to, false);
}

at::Scalar number(const at::Tensor& tensor) {
  wait();
  return on_cpu(tensor).item();
}

const at::Tensor& resize(const at::Tensor& tensor, SymSizes size, std::optional<at::MemoryFormat> format) {
  return at::native::resize_(tensor, C10_AS_INTARRAYREF_SLOW(size), format);
}

at::Tensor& set_storage(at::Tensor& tensor, at::Storage storage) {
  const auto n = static_cast<int64_t>(storage.nbytes() / tensor.itemsize());
  return at::native::set_storage_cpu_(tensor, storage, 0, {n}, {1});
}

at::Tensor& set_part(at::Tensor& tensor, at::Storage storage, int64_t offset, Sizes size, Sizes stride) {
  return at::native::set_storage_cpu_(tensor, storage, offset, size, stride);
}

at::Tensor view(const at::Tensor& tensor, SymSizes size) {
  return at::native::view(tensor, C10_AS_INTARRAYREF_SLOW(size));
}

at::Tensor reshape_alias(const at::Tensor& tensor, SymSizes size, SymSizes stride) {
  return at::native::_reshape_alias(tensor, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride));
}

at::Tensor as_strided(const at::Tensor& tensor, SymSizes size, SymSizes stride, std::optional<c10::SymInt> offset) {
  return at::native::as_strided_tensorimpl(
      tensor, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride),
      offset ? std::optional<int64_t>(offset->guard_int(__FILE__, __LINE__)) : std::nullopt);
}

void record_stream(at::Tensor&, at::Stream) {}

at::Tensor convolution(const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                       SymSizes stride, SymSizes padding, SymSizes dilation, bool transposed, SymSizes output_padding,
                       c10::SymInt groups) {
  TORCH_CHECK(here(input) && here(weight), "convolution: Expected all tensors to be on the same device");
  launch();
  at::AutoDispatchBelowADInplaceOrView plain;
  return on_device(at::convolution_symint(on_cpu(input), on_cpu(weight), on_cpu(bias), stride, padding, dilation,
                                          transposed, output_padding, groups));
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> convolution_backward(
    const at::Tensor& gradient, const at::Tensor& input, const at::Tensor& weight, SymSizes stride, SymSizes padding,
    SymSizes dilation, bool transposed, SymSizes output_padding, c10::SymInt groups, std::array<bool, 3> wanted) {
  launch();
  at::AutoDispatchBelowADInplaceOrView plain;
  const std::vector<c10::SymInt> bias{gradient.sym_size(1)};
  auto [a, b, c] = at::convolution_backward_symint(on_cpu(gradient), on_cpu(input), on_cpu(weight),
                                                   c10::OptionalArrayRef<c10::SymInt>(bias), stride, padding, dilation,
                                                   transposed, output_padding, groups, wanted);
  auto back = [](const at::Tensor& tensor) { return tensor.defined() ? on_device(tensor) : tensor; };
  return {back(a), back(b), back(c)};
}

}  // namespace

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&on_the_cpu>()); }

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("_copy_from", copy_from);
  m.impl("_copy_from_and_resize", copy_from_and_resize);
  m.impl("_local_scalar_dense", number);
  m.impl("resize_", resize);
  m.impl("set_.source_Storage", set_storage);
  m.impl("set_.source_Storage_storage_offset", set_part);
  m.impl("view", view);
  m.impl("_reshape_alias", reshape_alias);
  m.impl("as_strided", as_strided);
  m.impl("unfold", at::native::unfold);
  m.impl("view_as_real", at::native::view_as_real);
  m.impl("view_as_complex", at::native::view_as_complex);
  m.impl("record_stream", record_stream);
  m.impl("convolution_overrideable", convolution);
  m.impl("convolution_backward_overrideable", convolution_backward);
}

// What tests ask and set.
TORCH_LIBRARY(simulated, m) {
  m.def("start", [] {
    at::RegisterPrivateUse1HooksInterface(new Hooks());
    c10::SetAllocator(KIND, &memory);
  });
  m.def("now", [] { return the_clock.now; });
  m.def("advance", [](double seconds) { the_clock.now += seconds; });
  m.def("pace", [](double seconds) { the_clock.each = seconds; });
  m.def("launches", [] { return the_clock.launches; });
  m.def("waits", [] { return the_clock.waits; });
  m.def("held", [] { return held.load(); });
  m.def("most", [] { return most.load(); });
  m.def("default_generator", [] { return default_generator(); });
}
